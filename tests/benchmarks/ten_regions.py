"""From ten annotated regions of 512 px to a head that `run` uses: how long, and how good.

    python tests/benchmarks/ten_regions.py --out DIR [--seed N]

A drawn slide of 4096 px has exact truth; ten squares of 512 px of it are annotated with outlines
of that truth, as a pathologist would with polygons. `train` and `run` are the commands that a user
gives, the latter on two squares that were not annotated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID

import numpy as np
from rasterio import features
from rasterio.transform import Affine
from shapely.geometry import box, mapping

from qupath_bridge.demo.agreement import dice_per_class, mean_dice
from qupath_bridge.demo.drawing import TISSUE_CLASSES
from qupath_bridge.demo.project import DemoProject, make_demo_project, read_truth
from qupath_bridge.geometry import Region
from qupath_bridge.store import ResultStore

SIDE_PX, ANNOTATED, HELD_OUT = 512, 10, 2


def squares_of(truth: np.ndarray) -> list[tuple[int, int]]:
    """Return corners (x, y) of squares, the most mixed first."""
    places = [
        (x, y)
        for y in range(0, truth.shape[0] - SIDE_PX + 1, SIDE_PX)
        for x in range(0, truth.shape[1] - SIDE_PX + 1, SIDE_PX)
    ]

    def kinds(place: tuple[int, int]) -> float:
        x, y = place
        window = truth[y : y + SIDE_PX, x : x + SIDE_PX]
        shares = np.bincount(window.ravel(), minlength=len(TISSUE_CLASSES)) / window.size
        return float((shares**2).sum())

    return sorted(places, key=kinds)[: ANNOTATED + HELD_OUT]


def annotate(demo: DemoProject, truth: np.ndarray, squares: list[tuple[int, int]]) -> None:
    """Write the truth inside the squares as the project's annotations."""
    found = []
    for x, y in squares:
        window = np.ascontiguousarray(truth[y : y + SIDE_PX, x : x + SIDE_PX])
        for geometry, code in features.shapes(window, transform=Affine.translation(x, y)):
            found.append((geometry, TISSUE_CLASSES[int(code)]))
    write(demo, found)


def write(demo: DemoProject, found: list[tuple[dict, str | None]]) -> None:
    """Write annotations of these geometries and classes in place of those there are."""
    listed = [
        {
            "type": "Feature",
            "id": str(UUID(int=number, version=4)),
            "geometry": geometry,
            "properties": {"objectType": "annotation"}
            | ({"classification": {"name": name, "color": [0, 0, 0]}} if name else {}),
        }
        for number, (geometry, name) in enumerate(found, start=1)
    ]
    path = demo.folder / "pathsegdiff" / demo.entry_id / "regions.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": listed}))


def command(*arguments: str, home: Path) -> float:
    """Run the program and return how many seconds it took."""
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "qupath_bridge", *arguments],
        check=True,
        env=os.environ | {"QUPATH_PATHSEGDIFF_HOME": str(home)},
    )
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=11)
    arguments = parser.parse_args()
    demo = make_demo_project(arguments.out / "project", arguments.seed)
    truth = read_truth(demo.folder / "truth" / "tissue.png")
    squares = squares_of(truth)
    home, project = arguments.out / "home", str(demo.project_file)
    annotate(demo, truth, squares[:ANNOTATED])
    labels = ["--project", project, "--backend", "portable"]
    taught_s = command("train", "mine", "--head", "mine", *labels, home=home)
    held_out = [box(x, y, x + SIDE_PX, y + SIDE_PX) for x, y in squares[ANNOTATED:]]
    write(demo, [(mapping(square), None) for square in held_out])
    run_s = command("run", project, "--model", "mine", "--backend", "portable", home=home)
    detections = list(ResultStore(demo.folder).read_detections(demo.entry_id))
    regions = [Region(str(i), str(i), "", square) for i, square in enumerate(held_out)]
    dice = dice_per_class(truth, detections, TISSUE_CLASSES, regions)
    told = {name: round(value, 3) for name, value in dice.items()}
    print(f"train {taught_s:.0f} s, run {run_s:.0f} s, mean Dice {mean_dice(dice):.3f}: {told}")


if __name__ == "__main__":
    main()
