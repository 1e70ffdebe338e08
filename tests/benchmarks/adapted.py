"""Records of what head_fused.py, pipe.py and gpu_rate.py find, for all.py.

python tests/benchmarks/adapted.py head_fused|pipe|gpu_rate [--slide FILE] [--records FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from records import Record, records_option, tell

HEAD_SIDES = (64, 256)  # the program's head; the patch's own side, as Baranchuk et al. 2022 have it
DECODED_PX = 8192
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
    """Yield the seconds of all tiles against those of decoding the same pixels once."""
    from pipe import decode_ratio, write_slide

    side, repeats = (DECODED_PX // 4, 2) if quick else (DECODED_PX, 3)
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "drawn.tif"
        write_slide(drawn, side)
        for path, name in ((drawn, f"a drawn slide of {side} px"), (slide, slide and slide.name)):
            if path:
                found = decode_ratio(path, repeat=repeats)
                what = f"all tiles of {name}, {found['threads']} threads"
                times = found["tiles_wall"], found["raw_wall"]
                yield Record("pipe", what, *times, "raw decoding", "s", 1.3, None, repeats)


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
