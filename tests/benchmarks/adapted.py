"""Records of what head_fused.py, pipe.py and gpu_rate.py find, for all.py.

python tests/benchmarks/adapted.py head_fused|pipe|gpu_rate [--slide FILE] [--records FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from records import Record, records_option, tell

HEAD_SIDES = (64, 256)  # the program's head; the patch's own side, as Baranchuk et al. 2022 have it
DECODED_PX = 8192
SEGMENTED_PX = 1024
GPU_SIDE, GPU_PATCHES = 8192, 512


def head_fused(slide: Path | None, quick: bool) -> Iterator[Record]:
    """Yield the head's seconds and bytes, projected first against concatenated first."""
    from head_fused import head_ratio

    repeats, name, other = 2 if quick else 5, "head_fused", "upsampling, concatenating"
    for side in HEAD_SIDES[: 1 if quick else None]:
        found = head_ratio(side, repeats)
        at, ours, theirs = f"{side} px", "ours", "theirs"
        goals = (1 / 5, 1 / 10) if side == HEAD_SIDES[-1] else (None, None)
        times, sizes = (
            [found[f"{who}_{what}"] for who in (ours, theirs)] for what in ("s", "bytes")
        )
        yield Record(name, f"head at {at}, time", *times, other, "CPU s", goals[0], None, repeats)
        mib = [size / 2**20 for size in sizes]
        yield Record(name, f"head at {at}, memory", *mib, other, "MiB", goals[1])


def pipe(slide: Path | None, quick: bool) -> Iterator[Record]:
    """Yield the seconds of all tiles, and of the whole engine, against those of their floors."""
    from pipe import RESAMPLED_UM, decode_ratio, engine_ratio, write_slide
    from whole_engine import BLOB, SMALL_BLOB, free_engine, model_engine, repeated

    from model.home import DEFAULT_MODEL
    from qupath_bridge.geometry import Mpp

    side, repeats = (DECODED_PX // 4, 2) if quick else (DECODED_PX, 3)
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "drawn.tif"
        write_slide(drawn, side)
        slides = [(f"a drawn slide of {side} px", drawn, repeats)]
        if slide:  # a small one, as all real ones here: what takes tenths of a second is repeated
            slides.append((slide.name, slide, 3 * repeats))
        for name, path, times in slides:
            found = decode_ratio(path, repeat=times)
            what = f"all tiles of {name}, {found['threads']} threads"
            yield _pipe(what, found, "tiles", "raw", "raw decoding", 1.3, times)
        for um, (name, path, times) in product(RESAMPLED_UM, slides):
            found = decode_ratio(path, mpp=Mpp(um, um), repeat=times)
            what = f"all tiles of {name} if it were of {um} um"
            yield _pipe(what, found, "tiles", "raw", "raw decoding", 1.3, times)
        for blob, (name, path, times) in product((BLOB, SMALL_BLOB), slides):
            found = engine_ratio(repeated(path, None, free_engine(blob), None), False, times)
            what = f"the engine with a free model, {found['objects']} objects, {name}"
            yield from _wall_and_cpu(what, found, "raw", "raw decoding", 1.3, times)
        name, path, _ = slides.pop()
        region_px = SEGMENTED_PX // 2 if quick else SEGMENTED_PX
        it = repeated(path, None, model_engine(DEFAULT_MODEL), region_px)
        found = engine_ratio(it, True, repeats)
        what = f"the engine with the shipped model, {region_px} px of {name}"
        floor, other = ("model", "the model alone")
        if found["raw_wall"] > found["model_wall"]:
            floor, other = ("raw", "raw decoding")
        yield from _wall_and_cpu(what, found, floor, other, 1.1, repeats)


def _wall_and_cpu(
    what: str, found: dict[str, float], floor: str, other: str, goal: float, repeats: int
) -> Iterator[Record]:
    yield _pipe(what, found, "engine", floor, other, goal, repeats)
    times = found["engine_cpu"], found[f"{floor}_cpu"]
    yield Record("pipe", what, *times, other, "CPU s", None, None, repeats)


def _pipe(
    what: str, found: dict[str, float], ours: str, floor: str, other: str, goal: float, repeats: int
) -> Record:
    times = found[f"{ours}_wall"], found[f"{floor}_wall"]
    return Record("pipe", what, *times, other, "s", goal, None, repeats)


def gpu_rate(slide: Path | None, quick: bool) -> Iterator[Record]:
    """Yield the rates of the model alone and end to end against the card's own."""
    from gpu_rate import gpu_rate

    side, patches = (2048, 128) if quick else (GPU_SIDE, GPU_PATCHES)
    found = gpu_rate(side, patches, "auto")
    card, other, unit = found["card_tflops"], "the card's bf16 matrix rate", "TFLOP/s"
    whole, alone = found["whole_share"] * card, found["alone_share"] * card
    yield Record("gpu_rate", "slide to polygons", whole, card, other, unit, at_least=0.5)
    yield Record("gpu_rate", "the model alone", alone, card, other, unit)
    same, all_of_them = 100 * found["same_class"], 100.0
    what, other = "pixels of the class that float32 gives", "all"
    yield Record("gpu_rate", what, same, all_of_them, other, "%", at_least=0.995)


BENCHMARKS = {found.__name__: found for found in (head_fused, pipe, gpu_rate)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--slide", type=Path, help="a real slide for pipe, which has a pixel size")
    parser.add_argument("--quick", action="store_true")
    records_option(parser)
    chosen = parser.parse_args()
    for record in BENCHMARKS[chosen.name](chosen.slide, chosen.quick):
        tell(record, chosen.records)


if __name__ == "__main__":
    main()
