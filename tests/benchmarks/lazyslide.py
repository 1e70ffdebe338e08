"""Slide to polygons against LazySlide's `seg.semantic`, of the same slide with the same network.

    python tests/benchmarks/lazyslide.py --lazyslide PYTHON [--sides PX ...] [--blocks PX ...]

PYTHON is the interpreter of an environment of its own: `pip install torch lazyslide==0.13.0`.
Both see the whole of a drawn slide in tiles of 256 px that overlap by half, and a network that
costs next to nothing gives both a probability per pixel and class; both keep all objects, however
small. The smaller the network's blocks, the more objects. Wall seconds from opening the file to
having polygons, each in a process of its own, imports left out, the two taking turns. Then how our
cost per area at each side stands to that at the first: 1 where it is linear. LazySlide is not asked
for sides beyond --their-limit: it would take hours.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import child
from records import Record, records_option, tell

NAME = "lazyslide"
PEER = Path(__file__).parent / "lazyslide_peer.py"
MPP = 0.5
DRAWN = 2048  # px of a slide's side are drawn, and repeated


def write_slide(path: Path, side: int) -> Path:
    """Write a slide that is tissue all over, 0.5 um a pixel."""
    from qupath_bridge.demo.drawing import draw_slide
    from qupath_bridge.demo.tiff import write_pyramid

    drawn = draw_slide(7, DRAWN, DRAWN, coverage=1.0).pixels
    repeats = -(-side // DRAWN)
    write_pyramid(path, np.tile(drawn, (repeats, repeats, 1))[:side, :side], MPP)
    return path


def segment(path: Path, block: int) -> dict[str, float]:
    """Return seconds and objects of our side."""
    from free_engine import free_engine

    from qupath_bridge.engine.work import segment as segment_all
    from qupath_bridge.regions import slide_region
    from qupath_bridge.slide import open_slide

    everything = {"min_object_um2": 0.0, "min_hole_um2": 0.0, "simplify_um": 0.0}
    engine = free_engine(cell_m=1, block=block, device="cpu", **everything)
    engine.model  # noqa: B018  it is loaded before the clock runs, as is theirs
    began, spent = time.perf_counter(), time.process_time()
    with open_slide(path) as slide:
        regions = [slide_region(slide.width, slide.height)]
        objects = len(segment_all(engine, slide, regions, lambda count: None))
    seconds, cpu = time.perf_counter() - began, time.process_time() - spent
    return {"seconds": seconds, "cpu_seconds": cpu, "polygons": objects}


class Comparison:
    """Both sides' least seconds, by side and block."""

    def __init__(self, python: str, repeats: int, records: Path | None) -> None:
        self.python, self.repeats, self.records = python, repeats, records
        self.ours: dict[tuple[int, int], float] = {}

    def run(self, path: Path, side: int, block: int, both: bool) -> None:
        """Let the sides take turns, and tell how they stand."""
        size = ("--block", block)
        mine, theirs = [], []
        for _ in range(self.repeats):
            mine.append(child(Path(__file__), "--one", path, *size))
            print(f"  ours, {side} px, blocks of {block} px: {mine[-1]}", flush=True)
            if both:
                theirs.append(child(PEER, path, *size, python=self.python))
                print(f"  theirs: {theirs[-1]}", flush=True)
        self.ours[side, block] = min(told["seconds"] for told in mine)
        if both:
            self._against(side, block, min(told["seconds"] for told in theirs))

    def _against(self, side: int, block: int, theirs: float) -> None:
        """Tell how ours stands to theirs; at 4096 px it shall be a twentieth."""
        record = Record(
            NAME,
            f"slide to polygons, {side} px, blocks of {block} px",
            self.ours[side, block],
            theirs,
            "LazySlide's seg.semantic",
            "s",
            at_most=1 / 20 if side >= 4096 else None,
            repeats=self.repeats,
            size_px=side,
        )
        tell(record, self.records)

    def linearity(self, first: int, side: int, block: int) -> None:
        """Tell how the cost per area stands to that of the first side."""
        mm2 = {n: (n * MPP / 1000) ** 2 for n in (first, side)}
        record = Record(
            NAME,
            f"our cost per area, {side} px, blocks of {block} px",
            self.ours[side, block] / mm2[side],
            self.ours[first, block] / mm2[first],
            f"{first} px",
            "s/mm2",
            at_most=1.1,
            repeats=self.repeats,
            size_px=side,
            other_px=first,
        )
        tell(record, self.records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lazyslide", metavar="PYTHON", help="with LazySlide 0.13.0")
    parser.add_argument("--sides", type=int, nargs="+", default=[2048, 4096, 8192])
    parser.add_argument("--blocks", type=int, nargs="+", default=[16, 8])
    parser.add_argument("--their-limit", type=int, default=4096, help="px of side")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--one", type=Path, metavar="SLIDE", help="our side of one slide, here")
    parser.add_argument("--block", type=int, default=16, help="of --one")
    records_option(parser)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(segment(chosen.one, chosen.block)))
        return
    if not chosen.lazyslide:
        parser.error("name LazySlide's Python: --lazyslide PYTHON")
    comparison = Comparison(chosen.lazyslide, chosen.repeat, chosen.records)
    with tempfile.TemporaryDirectory() as folder:
        for side in chosen.sides:
            path = write_slide(Path(folder) / f"{side}.tif", side)
            for block in chosen.blocks:
                comparison.run(path, side, block, both=side <= chosen.their_limit)
            path.unlink()
    first, *others = chosen.sides
    for side in others:
        for block in chosen.blocks:
            comparison.linearity(first, side, block)


if __name__ == "__main__":
    main()
