"""Slide to polygons against LazySlide's `seg.semantic`, of the same slide with the same network.

    python tests/benchmarks/lazyslide.py --lazyslide PYTHON [--sides PX ...] [--repeat N]

PYTHON is the interpreter of an environment of its own: `pip install torch lazyslide==0.13.0`.
Both see the whole of a drawn slide in tiles of 256 px that overlap by half, and a network that
costs next to nothing gives both a probability per pixel and class; both keep all objects, however
small. Wall seconds from opening the file to having polygons, each in a process of its own, imports
left out, the two taking turns. Then how our cost per area at each side stands to that at the first:
1 where it is linear. LazySlide is not asked for sides beyond --their-limit: it would take hours.
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


def segment(path: Path) -> dict[str, float]:
    """Return seconds and objects of our side."""
    from free_engine import free_engine

    from qupath_bridge.regions import regions_to_segment
    from qupath_bridge.slide import open_slide

    everything = {"min_object_um2": 0.0, "min_hole_um2": 0.0, "simplify_um": 0.0}
    engine = free_engine(cell_m=1, device="cpu", **everything)
    engine.model  # noqa: B018  it is loaded before the clock runs, as is theirs
    began = time.perf_counter()
    with open_slide(path) as slide:
        regions = regions_to_segment(slide, [], "slide").regions
        objects = sum(1 for _ in engine.segment(slide, regions, lambda count: None))
    return {"seconds": time.perf_counter() - began, "polygons": objects}


def compare(path: Path, python: str | None, repeats: int) -> dict[str, float]:
    """Return the least seconds of each side; theirs only where there is a Python for it."""
    taken: dict[str, list[float]] = {"ours": []}
    for _ in range(repeats):
        taken["ours"].append(child(Path(__file__), "--one", path)["seconds"])
        if python:
            theirs = child(PEER, path, python=python)["seconds"]
            taken.setdefault("theirs", []).append(theirs)
    return {name: min(seconds) for name, seconds in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lazyslide", metavar="PYTHON", help="with LazySlide 0.13.0")
    parser.add_argument("--sides", type=int, nargs="+", default=[2048, 4096, 8192])
    parser.add_argument("--their-limit", type=int, default=4096, help="px of side")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--one", type=Path, metavar="SLIDE", help="our side of one slide, here")
    records_option(parser)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(segment(chosen.one)))
        return
    if not chosen.lazyslide:
        parser.error("name LazySlide's Python: --lazyslide PYTHON")
    ours = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in chosen.sides:
            path = write_slide(Path(folder) / f"{side}.tif", side)
            python = chosen.lazyslide if side <= chosen.their_limit else None
            taken = compare(path, python, chosen.repeat)
            path.unlink()
            ours[side] = taken["ours"]
            if python:
                tell(against(side, taken, chosen.repeat), chosen.records)
    first, *others = ours
    for side in others:
        tell(linearity(first, side, ours, chosen.repeat), chosen.records)


def against(side: int, taken: dict[str, float], repeats: int) -> Record:
    """Return how ours stands to theirs; at 4096 px it shall be a twentieth."""
    return Record(
        NAME,
        f"slide to polygons, {side} px",
        taken["ours"],
        taken["theirs"],
        "LazySlide's seg.semantic",
        "s",
        at_most=1 / 20 if side >= 4096 else None,
        repeats=repeats,
        size_px=side,
    )


def linearity(first: int, side: int, ours: dict[int, float], repeats: int) -> Record:
    """Return how the cost per area stands to that of the first side."""
    mm2 = {n: (n * MPP / 1000) ** 2 for n in (first, side)}
    return Record(
        NAME,
        f"our cost per area, {side} px",
        ours[side] / mm2[side],
        ours[first] / mm2[first],
        f"{first} px",
        "s/mm2",
        at_most=1.1,
        repeats=repeats,
        size_px=side,
    )


if __name__ == "__main__":
    main()
