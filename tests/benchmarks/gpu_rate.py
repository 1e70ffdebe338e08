"""A GPU at work with a model of the published architecture: share of the card's own rate.

    python tests/benchmarks/gpu_rate.py [--side 8192] [--patches 512] [--precision auto]

In one run: the card's rate in large matrix products of bf16; the model's rate on patches from
memory; the rate from a drawn slide's file to polygons through the program's engine; how many pixels
get the class that float32 gives them. FLOP are those of the layers that run, attention included,
two per multiplication and addition. Needs CUDA; `--flop` counts without it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
import torch
from shapely.geometry import box
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from model_alone import drawn_tiles, model_alone  # noqa: E402
from published_model import TILE_M, published_card, published_segmenter  # noqa: E402

from model.segmenter import Segmenter  # noqa: E402
from qupath_bridge.demo.drawing import draw_slide  # noqa: E402
from qupath_bridge.engine.work import segment  # noqa: E402
from qupath_bridge.geometry import Region  # noqa: E402
from qupath_bridge.overview import Overview  # noqa: E402
from qupath_bridge.segment import Engine  # noqa: E402
from qupath_bridge.settings import RunSettings  # noqa: E402
from qupath_bridge.slide import open_slide  # noqa: E402

MATRIX = 8192
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def flop_per_patch() -> int:
    """Return the operations that a patch takes, counted while the CPU computes one."""
    network = published_segmenter(CPU, taught=False)
    tiles = drawn_tiles(1)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        network.probabilities(tiles, [(0, 0)])
    return counted.get_total_flops()


def matrix_rate(repeat: int = 50) -> float:
    """Return the card's rate in products of large bf16 matrices, FLOP/s."""
    one, other = (torch.randn(MATRIX, MATRIX, device=CUDA).bfloat16() for _ in range(2))

    def products() -> None:
        for _ in range(repeat):
            one @ other

    products()
    return repeat * 2 * MATRIX**3 / device_seconds(products)


def device_seconds(way: Callable[[], object]) -> float:
    """Return the seconds that the device takes for what a call queues."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    way()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def patches_per_second(segmenter: Segmenter, patches: int) -> float:
    """Return the model's rate on patches from memory, warm."""
    tiles = np.resize(drawn_tiles(16), (patches, TILE_M, TILE_M, 3))
    model_alone(segmenter, tiles[: 2 * segmenter.batch_size])
    return patches / model_alone(segmenter, tiles)


def end_to_end(segmenter: Segmenter, side: int, folder: Path) -> tuple[int, int, float]:
    """Return how many patches and objects a slide of `side` pixels has, and the seconds it took."""
    path = folder / "drawn.tif"
    block = draw_slide(7, 2048, 2048, coverage=1.0).pixels
    pixels = np.tile(block, (-(-side // 2048), -(-side // 2048), 1))[:side, :side]
    resolution = {"resolution": (2e4, 2e4), "resolutionunit": 3}  # 0.5 um/px
    tifffile.imwrite(
        path, pixels, tile=(512, 512), photometric="rgb", compression="jpeg", **resolution
    )
    card = published_card()
    settings = RunSettings(device=str(segmenter.device), batch_size=segmenter.batch_size)
    engine = Engine(folder, card, ["tissue"], settings, lambda *_: segmenter)
    regions = [Region("whole", "whole", "", box(0, 0, side, side))]
    with open_slide(path) as slide:
        patches = len(engine.sweep(slide, Overview.of(slide), regions).tiles)
        begin = time.perf_counter()
        objects = len(segment(engine, slide, regions, lambda count: None))
        return patches, objects, time.perf_counter() - begin


def same_class(segmenter: Segmenter) -> float:
    """Return the share of pixels with the class that float32 gives them on the same card."""
    tiles, places = drawn_tiles(4), [(128 * i, 0) for i in range(4)]
    found = segmenter.probabilities(tiles, places)["tissue"].argmax(axis=1)
    exact = published_segmenter(CUDA, "float32").probabilities(tiles, places)["tissue"]
    return float((found == exact.argmax(axis=1)).mean())


def gpu_rate(side: int, patches: int, precision: str) -> dict[str, float]:
    """Return rates in FLOP/s and patches/s, shares of the card's rate, and agreement."""
    flop = flop_per_patch()
    card = matrix_rate()
    segmenter = published_segmenter(CUDA, precision)
    alone = patches_per_second(segmenter, patches)
    with tempfile.TemporaryDirectory() as folder:
        count, objects, taken = end_to_end(segmenter, side, Path(folder))
    return {
        "gflop_per_patch": flop / 1e9,
        "card_tflops": card / 1e12,
        "batch_size": segmenter.batch_size,
        "alone_patches_per_s": alone,
        "alone_share": alone * flop / card,
        "whole_patches": count,
        "whole_objects": objects,
        "whole_patches_per_s": count / taken,
        "whole_share": count * flop / taken / card,
        "same_class": same_class(segmenter),
    }


def main() -> None:
    """Print what was measured, a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=8192, help="of the slide, px")
    parser.add_argument("--patches", type=int, default=512, help="for the model alone")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--flop", action="store_true", help="count operations only")
    chosen = parser.parse_args()
    if chosen.flop:
        print(f"{flop_per_patch() / 1e9:.1f} GFLOP per patch")
        return
    if not torch.cuda.is_available():
        raise SystemExit("skipped: no CUDA device")
    print(torch.cuda.get_device_name())
    for name, value in gpu_rate(chosen.side, chosen.patches, chosen.precision).items():
        print(f"{name:20} {value:.4g}")


if __name__ == "__main__":
    main()
