"""One sparse slide from its file to GeoJSON in a process of its own, as area.py and memory.py ask.

    python tests/benchmarks/sparse_run.py SLIDE

Finds the tissue, segments it with the network that costs next to nothing, writes the objects, and
prints what that took as a JSON object: seconds, tiles, tissue in mm2, objects, and the most memory
held, in MiB, of which `loaded_mib` were held before the slide was opened.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from free_engine import free_engine
from measuring import peak_mib

from qupath_bridge.detections import Detection
from qupath_bridge.engine.checkpoint import Checkpoint
from qupath_bridge.engine.work import ImageWork
from qupath_bridge.featurecollection import write_detections
from qupath_bridge.overview import Overview
from qupath_bridge.regions import tissue_region
from qupath_bridge.slide import open_slide


class Counted:
    """Counts what passes."""

    def __init__(self) -> None:
        self.tiles = self.objects = 0

    def tile(self, count: int) -> None:
        self.tiles += count

    def through(self, objects: Iterable[Detection]) -> Iterator[Detection]:
        for one in objects:
            self.objects += 1
            yield one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    chosen = parser.parse_args()
    engine, count = free_engine(device="cpu"), Counted()
    side = engine.card.tile_m
    engine.model.probabilities(np.zeros((1, side, side, 3), np.uint8), [(0, 0)])
    loaded = peak_mib()
    began = time.perf_counter()
    with open_slide(chosen.slide) as slide, tempfile.TemporaryDirectory() as folder:
        overview = Overview.of(slide)
        regions = [tissue_region(overview)]
        work = ImageWork.of(engine, slide, overview, regions)
        del overview  # as a run does
        found = work.done(Checkpoint(Path(folder)), engine.batch, count.tile)
        write_detections(Path(folder) / "objects.geojson.gz", count.through(found.objects))
        mm2 = sum(r.outline_l0.area for r in regions) * slide.mpp.x * slide.mpp.y / 1e6
    told = {
        "seconds": time.perf_counter() - began,
        "tiles": count.tiles,
        "tissue_mm2": mm2,
        "objects": count.objects,
        "loaded_mib": loaded,
        "peak_mib": peak_mib(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
