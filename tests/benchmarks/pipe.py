"""What tiles cost beside the bare decoding of the same pixels.

    python tests/benchmarks/pipe.py decode [--slide FILE --mpp UM] [--side PIXELS] [--threads N]

decode: all tiles of a slide, overlapping by half, from `TileSource`, against OpenSlide itself
reading the same level pixels once, to RGB arrays, in large aligned blocks, with as many threads;
one after the other, again and again, the least of each. On a generated tiled JPEG at the model's
own pixel size, and on --slide: there twice, at its own pixel size and resampled to 0.5 um. Wall
time is what counts; CPU time is told too, for machines that others use.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import tifffile
from shapely.geometry import box

from qupath_bridge.demo.drawing import draw_slide
from qupath_bridge.engine.source import TileSource, default_threads
from qupath_bridge.geometry import Mpp, Scale
from qupath_bridge.slide import open_slide
from qupath_bridge.tiles import TilePlan, tiles_of

RAW_BLOCK = 2048
DRAWN = 2048
PLAN = TilePlan()
BATCH = 16


def write_slide(path: Path, side: int) -> None:
    """Write drawn tissue, repeated, as a tiled JPEG of 0.5 um a pixel and side x side pixels."""
    drawn = draw_slide(5, DRAWN, DRAWN, coverage=1.0).pixels
    across = -(-side // DRAWN)

    def stored_tiles() -> Iterator[np.ndarray]:
        for y in range(0, side, 256):
            for x in range(0, side, 256):
                yield drawn[y % DRAWN : y % DRAWN + 256, x % DRAWN : x % DRAWN + 256]

    assert across * DRAWN == side, f"a side must be a multiple of {DRAWN} px"
    tifffile.imwrite(
        path, stored_tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(256, 256),
        photometric="rgb", compression="jpeg", compressionargs={"level": 85},
        resolution=(2e4, 2e4), resolutionunit=3, bigtiff=True,
    )  # fmt: skip


def decode_raw(path: Path, level: int, threads: int) -> int:
    """Return how many pixels a level has, all of them decoded."""
    with openslide.OpenSlide(path) as slide, ThreadPoolExecutor(threads) as pool:
        width, height = slide.level_dimensions[level]
        downsample = slide.level_downsamples[level]

        def read(corner: tuple[int, int]) -> None:
            size = tuple(
                min(RAW_BLOCK, full - at) for full, at in zip((width, height), corner, strict=True)
            )
            corner_l0 = tuple(round(at * downsample) for at in corner)
            np.asarray(slide.read_region(corner_l0, level, size).convert("RGB"))

        corners = [(x, y) for y in range(0, height, RAW_BLOCK) for x in range(0, width, RAW_BLOCK)]
        list(pool.map(read, corners))
    return width * height


def read_tiles(path: Path, mpp: Mpp | None, model_mpp: float, threads: int) -> int:
    """Return how many tiles a slide has, all of them read."""
    with open_slide(path, mpp) as slide:
        scale = Scale.between(slide.mpp, model_mpp)
        tiles = tiles_of(box(0, 0, slide.width / scale.x, slide.height / scale.y), PLAN)
        batches = (tiles[start : start + BATCH] for start in range(0, len(tiles), BATCH))
        with TileSource(slide, scale, PLAN.tile_m, threads) as source:
            return sum(len(batch.tiles) for batch in source.read_ahead(batches))


def decode_ratio(
    slide_path: Path,
    model_mpp: float = 0.5,
    mpp: Mpp | None = None,
    threads: int | None = None,
    repeat: int = 3,
) -> dict[str, float]:
    """Return seconds of both ways, wall and CPU, their ratios, and how many pixels and tiles.

    mpp: the slide's pixel size, where the file has none or another is to be tried.
    """
    threads = threads or default_threads()
    with open_slide(slide_path, mpp) as slide:
        scale = Scale.between(slide.mpp, model_mpp)
        fine = [entry for entry in slide.levels if entry.downsample_x <= scale.x * 1.01]
        level = fine[-1].index if fine else 0
    raw: list[tuple[float, float]] = []
    tiles: list[tuple[float, float]] = []
    for _ in range(repeat):
        raw.append(seconds(lambda: decode_raw(slide_path, level, threads)))
        tiles.append(seconds(lambda: read_tiles(slide_path, mpp, model_mpp, threads)))
    (raw_wall, raw_cpu), (tiles_wall, tiles_cpu) = (map(min, *times) for times in (raw, tiles))
    return {
        "raw_wall": raw_wall,
        "raw_cpu": raw_cpu,
        "tiles_wall": tiles_wall,
        "tiles_cpu": tiles_cpu,
        "ratio": tiles_wall / raw_wall,
        "cpu_ratio": tiles_cpu / raw_cpu,
        "threads": threads,
    }


def seconds(way: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and CPU seconds that a call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    way()
    return time.perf_counter() - wall, time.process_time() - cpu


def line(name: str, found: dict[str, float]) -> str:
    """Return what was found of a slide."""
    return (
        f"{name:44} {found['threads']:2} threads  raw {found['raw_wall']:6.2f} s"
        f"  tiles {found['tiles_wall']:6.2f} s  ratio {found['ratio']:.2f}"
        f"  (CPU {found['raw_cpu']:.2f} s, {found['tiles_cpu']:.2f} s, {found['cpu_ratio']:.2f})"
    )


def decode(chosen: argparse.Namespace) -> None:
    """Print a line for the generated slide, and two for a real one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.tif"
        write_slide(path, chosen.side)
        found = decode_ratio(path, threads=chosen.threads, repeat=chosen.repeat)
        print(line(f"generated, {chosen.side} px, as it is", found))
    if chosen.slide:
        mpp = Mpp(chosen.mpp, chosen.mpp) if chosen.mpp else None
        own = decode_ratio(chosen.slide, 0.5, Mpp(0.5, 0.5), chosen.threads, chosen.repeat)
        print(line(f"{chosen.slide.name}, as it is", own))
        found = decode_ratio(chosen.slide, 0.5, mpp, chosen.threads, chosen.repeat)
        print(line(f"{chosen.slide.name}, to 0.5 um", found))


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["decode"])
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--mpp", type=float, help="the slide's, where it has none")
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeat", type=int, default=3)
    decode(parser.parse_args())


if __name__ == "__main__":
    main()
