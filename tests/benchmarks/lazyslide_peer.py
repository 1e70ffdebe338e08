"""LazySlide's side of lazyslide.py, run by the Python of an environment that has LazySlide.

    PYTHON tests/benchmarks/lazyslide_peer.py SLIDE [--block PX]

Tiles the whole slide as we do, 256 px that overlap by half, runs `seg.semantic` with the network of
free_network.py, and prints seconds and polygons as a JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

FOLDER = str(Path(__file__).resolve().parent)
# Here lies a lazyslide.py that is not meant below.
sys.path = [path for path in sys.path if str(Path(path).resolve()) != FOLDER]

import torch  # noqa: E402

try:
    import torchvision  # noqa: F401
except RuntimeError:  # it was built for another torch; these operators are all that it misses
    for name in ("torchvision::nms", "torchvision::qnms"):
        torch.library.define(name, "(Tensor boxes, Tensor scores, float threshold) -> Tensor")

import lazyslide as zs  # noqa: E402
from lazyslide_models.base import SegmentationOutput  # noqa: E402
from wsidata import open_wsi  # noqa: E402

sys.path.append(FOLDER)
from free_network import BLOCK, CLASSES, FreeNetwork  # noqa: E402


class Model:
    """The network as LazySlide wants its models."""

    def __init__(self, block: int) -> None:
        self.network = FreeNetwork(block=block).eval()

    def to(self, device: object) -> Model:
        self.network.to(device)
        return self

    def get_transform(self) -> object:
        return lambda image: torch.from_numpy(image).permute(2, 0, 1)

    def segment(self, images: torch.Tensor) -> SegmentationOutput:
        return SegmentationOutput(probability_map=self.network(images), classes=CLASSES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--block", type=int, default=BLOCK)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    began, spent = time.perf_counter(), time.process_time()
    wsi = open_wsi(chosen.slide)
    zs.pp.tile_tissues(wsi, 256, overlap=0.5, edge=True)
    zs.seg.semantic(wsi, Model(chosen.block), class_names=list(CLASSES), device="cpu", pbar=False)
    seconds, cpu = time.perf_counter() - began, time.process_time() - spent
    polygons = len(wsi.shapes["anatomical_structures"])
    told = {"seconds": seconds, "cpu_seconds": cpu, "polygons": polygons}
    print(json.dumps(told | {"tiles": len(wsi["tiles"])}))


if __name__ == "__main__":
    main()
