"""Writing 100,000 detections into a project: our way, and paquo's `load_geojson`.

    PAQUO_QUPATH_DIR=DIR python tests/benchmarks/write_objects.py [--count N] [--repeat N]

Both get the same polygons of 40 corners with class and measurements in memory, ours as detections,
paquo as the GeoJSON features that we write of them, and the same Java with the same options, and
leave a saved project; each works on its own copy in a process of its own, the two taking turns.
Wall seconds without starting Java and opening the project. Ours include what paquo does not do:
reading the file back before it replaces the old one. In the end both projects must hold all of
them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import child, peak_mib
from records import Record, records_option, tell
from shapely.geometry import Polygon

from qupath_bridge.demo.project import make_demo_project
from qupath_bridge.detections import Detection, detection_id
from qupath_bridge.featurecollection import write_detections
from qupath_bridge.project import ImageWrite, ProjectClass, find_qupath, open_project

SIDE_PX = 4096
CORNERS = 40
CLASSES = (ProjectClass("Tumor", (200, 0, 0)), ProjectClass("Stroma", (150, 200, 150)))


def drawn(count: int) -> list[Detection]:
    """Return stars side by side, of two classes."""
    across = int(np.ceil(np.sqrt(count)))
    pitch = SIDE_PX / across
    turn = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    corners = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    radii = np.random.default_rng(0).uniform(0.25, 0.48, (count, CORNERS, 1)) * pitch
    row, column = np.divmod(np.arange(count), across)
    centres = (np.stack([column, row], axis=-1)[:, None] + 0.5) * pitch
    return [_detection(i, Polygon(ring)) for i, ring in enumerate(centres + radii * corners)]


def _detection(number: int, outline: Polygon) -> Detection:
    known = CLASSES[number % len(CLASSES)]
    made = detection_id("tissue", "tissue", str(number).encode())
    area_um2 = outline.area / 4
    return Detection(made, "tissue", "tissue", known.name, known.color, outline, area_um2, 0.9, 0.1)


def ours(project: Path, count: int) -> float:
    """Return the seconds of our way; Java must run."""
    detections = drawn(count)
    face = open_project(project, "paquo")
    (image,) = face.images()
    began = time.perf_counter()
    face.write(image, ImageWrite(["tissue"], ["tissue"], detections, classes=CLASSES))
    return time.perf_counter() - began


def theirs(project: Path, count: int) -> float:
    """Return the seconds of `load_geojson` with saving; Java must run."""
    from paquo.projects import QuPathProject

    file = project.with_name("objects.geojson")
    write_detections(file, drawn(count))
    features = json.loads(file.read_text(encoding="utf-8"))["features"]
    with QuPathProject(project, mode="r+") as opened:
        (entry,) = opened.images
        began = time.perf_counter()
        entry.hierarchy.load_geojson(features)
        entry.save()
        return time.perf_counter() - began


WAYS: dict[str, Callable[[Path, int], float]] = {"ours": ours, "paquo": theirs}


def one(way: str, project: Path, count: int) -> None:
    """Go one way, look what the project holds then, and print what it took (CPU: with drawing)."""
    from qupath_bridge.project.jvm import start_java

    qupath = find_qupath()
    if qupath is None:
        sys.exit("no QuPath: set PAQUO_QUPATH_DIR")
    start_java(qupath)
    spent = time.process_time()
    seconds, most = WAYS[way](project, count), peak_mib()
    spent = time.process_time() - spent
    face = open_project(project, "paquo")
    held = len(face.detection_ids(face.images()[0]) or ())
    if held != count:
        sys.exit(f"{way}: the project holds {held} of {count} detections")
    print(json.dumps({"seconds": seconds, "cpu_seconds": spent, "peak_mib": most}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "PROJECT"), help="one way, here")
    records_option(parser)
    chosen = parser.parse_args()
    if chosen.one:
        one(chosen.one[0], Path(chosen.one[1]), chosen.count)
        return
    told: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as scratch:
        demo = make_demo_project(Path(scratch) / "demo", 7, side_px=SIDE_PX)
        for turn in range(chosen.repeat):
            for way in WAYS:
                copy = Path(shutil.copytree(demo.folder, Path(scratch) / f"{way}{turn}"))
                project = copy / demo.project_file.name
                size = ("--count", chosen.count)
                told[way].append(child(Path(__file__), "--one", way, project, *size))
                print(f"  {way}: {told[way][-1]}", flush=True)
    for key, what, unit in (("seconds", "written and saved", "s"), ("peak_mib", "held", "MiB")):
        least = {way: min(run[key] for run in runs) for way, runs in told.items()}
        record = Record(
            "write_objects",
            f"{chosen.count:,} detections, {what}",
            least["ours"],
            least["paquo"],
            "paquo's load_geojson",
            unit,
            at_most=1.0 if unit == "s" else None,
            repeats=chosen.repeat,
        )
        tell(record, chosen.records)


if __name__ == "__main__":
    main()
