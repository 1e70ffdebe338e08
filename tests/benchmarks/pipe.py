"""What tiles, and the whole engine, cost beside the bare decoding of the same pixels.

    python tests/benchmarks/pipe.py decode [--slide FILE] [--side PIXELS] [--threads N]
    python tests/benchmarks/pipe.py free|model [--slide FILE --mpp UM] [--side PX] [--region PX]

decode: all tiles of a slide, overlapping by half, from `TileSource`, against OpenSlide itself
reading the same level pixels once, to RGB arrays, in large aligned blocks, with as many threads;
one after the other, again and again, the least of each. On a generated tiled JPEG at the model's
own pixel size, and on --slide: there as if it were of 0.5, 0.25 and 0.42 um, the latter two to be
resampled to 0.5 um.
free: the whole engine with scores that are known, against the same raw decoding.
model: the whole engine with a model, against the larger of raw decoding and the model alone on the
same tiles from memory, in the same batches. Both on --slide or else on a generated one.
Wall time is what counts; CPU time is told too, for machines that others use.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import openslide
from measuring import wall_and_cpu
from shapely.geometry import box
from whole_engine import BLOB, Repeated, engine_times, free_engine, model_engine, repeated

from model import find_model
from qupath_bridge.demo.drawing import draw_slide
from qupath_bridge.demo.tiff import write_pyramid
from qupath_bridge.engine.source import TileSource, default_threads
from qupath_bridge.geometry import BoxL0, Mpp, Scale
from qupath_bridge.segment import Engine
from qupath_bridge.slide import open_slide
from qupath_bridge.tiles import TilePlan, tiles_of

RAW_BLOCK = 2048
DRAWN = 2048
PLAN = TilePlan()
BATCH = 16
RESAMPLED_UM = (0.25, 0.42)  # four pixels to one; pixels in between those that are stored


def write_slide(path: Path, side: int) -> None:
    """Write drawn tissue, repeated, as a JPEG pyramid of 0.5 um a pixel and side x side pixels."""
    drawn = draw_slide(5, DRAWN, DRAWN, coverage=1.0).pixels
    assert side % DRAWN == 0, f"a side must be a multiple of {DRAWN} px"
    write_pyramid(path, np.tile(drawn, (side // DRAWN, side // DRAWN, 1)), 0.5)


def decode_raw(path: Path, level: int, threads: int, box_l0: BoxL0 | None = None) -> int:
    """Return how many pixels a level has, or a box of it, all of them decoded."""
    with openslide.OpenSlide(path) as slide, ThreadPoolExecutor(threads) as pool:
        x0, y0, x1, y1 = box_l0 or (0, 0, *slide.dimensions)
        downsample = slide.level_downsamples[level]
        width, height = round((x1 - x0) / downsample), round((y1 - y0) / downsample)

        def read(corner: tuple[int, int]) -> None:
            x, y = corner
            size = min(RAW_BLOCK, width - x), min(RAW_BLOCK, height - y)
            corner_l0 = round(x0 + x * downsample), round(y0 + y * downsample)
            np.asarray(slide.read_region(corner_l0, level, size).convert("RGB"))

        corners = [(x, y) for y in range(0, height, RAW_BLOCK) for x in range(0, width, RAW_BLOCK)]
        list(pool.map(read, corners))
    return width * height


def read_tiles(path: Path, mpp: Mpp | None, model_mpp: float, threads: int) -> int:
    """Return how many tiles a slide has, all of them read."""
    with open_slide(path, mpp) as slide:
        scale = Scale.near(slide.mpp, model_mpp)
        tiles = tiles_of(box(0, 0, slide.width / scale.x, slide.height / scale.y), PLAN)
        batches = (tiles[start : start + BATCH] for start in range(0, len(tiles), BATCH))
        with TileSource(slide, scale, PLAN.tile_m, threads) as source:
            return sum(len(batch.tiles) for batch in source.read_ahead(batches))


def level_read(path: Path, mpp: Mpp | None, model_mpp: float) -> int:
    """Return from which level of a slide its tiles are read."""
    with open_slide(path, mpp) as slide:
        scale = Scale.near(slide.mpp, model_mpp)
        fine = [entry for entry in slide.levels if entry.downsample_x <= scale.x * 1.01]
        return fine[-1].index if fine else 0


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
    level = level_read(slide_path, mpp, model_mpp)
    raw: list[tuple[float, float]] = []
    tiles: list[tuple[float, float]] = []
    for _ in range(repeat):
        raw.append(wall_and_cpu(lambda: decode_raw(slide_path, level, threads)))
        tiles.append(wall_and_cpu(lambda: read_tiles(slide_path, mpp, model_mpp, threads)))
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


def line(name: str, found: dict[str, float]) -> str:
    """Return what was found of a slide."""
    return (
        f"{name:44} {found['threads']:2} threads  raw {found['raw_wall']:6.2f} s"
        f"  tiles {found['tiles_wall']:6.2f} s  ratio {found['ratio']:.2f}"
        f"  (CPU {found['raw_cpu']:.2f} s, {found['tiles_cpu']:.2f} s, {found['cpu_ratio']:.2f})"
    )


def engine_ratio(it: Repeated, alone: bool, repeat: int = 3) -> dict[str, float]:
    """Return seconds of the engine and its floors, and the ratio to the larger one.

    alone: whether the model is a floor too, or costs nothing.
    """
    threads = default_threads()
    level = level_read(it.path, it.mpp, it.engine.card.mpp)
    raw = partial(decode_raw, it.path, level, threads, it.box_l0)
    found = engine_times(it, raw, alone, repeat)
    floor = max(found["raw_wall"], found.get("model_wall", 0.0))
    return found | {"threads": threads, "floor": floor, "ratio": found["engine_wall"] / floor}


def engine_line(name: str, found: dict[str, float]) -> str:
    """Return what was found of the engine on a slide."""
    times = [
        f"{who} {found[f'{who}_wall']:6.2f} s (CPU {found[f'{who}_cpu']:.2f})"
        for who in ("raw", "model", "engine")
        if f"{who}_wall" in found
    ]
    what = f"{name:30} {found['objects']} objects, {found['threads']:2} threads"
    return f"{what}  {'  '.join(times)}  ratio {found['ratio']:.2f}"


def whole(chosen: argparse.Namespace, engine: Engine, alone: bool) -> None:
    """Print a line of the engine for the generated slide, or for --slide if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        path = chosen.slide or Path(folder) / "drawn.tif"
        if not chosen.slide:
            write_slide(path, chosen.side)
        mpp = Mpp(chosen.mpp, chosen.mpp) if chosen.mpp else None
        it = repeated(path, mpp, engine, chosen.region)
        print(engine_line(path.name, engine_ratio(it, alone, chosen.repeat)))


def decode(chosen: argparse.Namespace) -> None:
    """Print a line for the generated slide, and two for a real one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.tif"
        write_slide(path, chosen.side)
        found = decode_ratio(path, threads=chosen.threads, repeat=chosen.repeat)
        print(line(f"generated, {chosen.side} px, as it is", found))
    if chosen.slide:
        for um in (0.5, *RESAMPLED_UM):
            found = decode_ratio(chosen.slide, 0.5, Mpp(um, um), chosen.threads, chosen.repeat)
            print(line(f"{chosen.slide.name}, as if of {um} um", found))


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["decode", "free", "model"])
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--mpp", type=float, help="the slide's, where it has none")
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--threads", type=int, help="of decode")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--region", type=int, help="of free, model: a square in the middle, px")
    parser.add_argument("--blob", type=int, default=BLOB, help="of free: size of what it finds")
    parser.add_argument("--model", help="of model; default: the shipped one")
    chosen = parser.parse_args()
    if chosen.what == "decode":
        decode(chosen)
    elif chosen.what == "free":
        whole(chosen, free_engine(chosen.blob), alone=False)
    else:
        whole(chosen, model_engine(find_model(chosen.model)), alone=True)


if __name__ == "__main__":
    main()
