"""Whole runs into a project of the real QuPath, and what it then finds there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import shapely
from shapely.geometry import shape

pytestmark = [
    pytest.mark.qupath,
    pytest.mark.skipif(
        not os.environ.get("PAQUO_QUPATH_DIR"), reason="no QuPath: PAQUO_QUPATH_DIR is not set"
    ),
]

MAKE = """
import sys
from pathlib import Path
from qupath_bridge.project import find_qupath
from qupath_bridge.project.jvm import start_java
start_java(find_qupath())
from paquo.classes import QuPathPathClass
from paquo.images import QuPathImageType
from paquo.projects import QuPathProject
from shapely.geometry import LineString, box
with QuPathProject(Path(sys.argv[1]), mode="x") as project:
    own = QuPathPathClass("My own class", color="#102030")
    project.path_classes = [own]
    entry = project.add_image(sys.argv[2], image_type=QuPathImageType.BRIGHTFIELD_H_E)
    tumor = QuPathPathClass("Tumor")
    for name, roi in {"here": box(100, 100, 220, 200), "there": box(300, 220, 400, 330)}.items():
        annotation = entry.hierarchy.add_annotation(roi, path_class=tumor)
        annotation.name = name
        annotation.locked = True
        annotation.measurements["mine"] = 3.5
    entry.hierarchy.add_annotation(LineString([(0, 0), (50, 50)]), path_class=own)
    entry.hierarchy.add_detection(box(110, 110, 120, 120), path_class=own)
"""

DUMP = """
import json, sys
from pathlib import Path
from qupath_bridge.project import find_qupath
from qupath_bridge.project.jvm import start_java
start_java(find_qupath())
from paquo.java import GsonTools
from paquo.projects import QuPathProject
project = QuPathProject(Path(sys.argv[1]), mode=sys.argv[2])
objects = []
def walk(item, parent):
    for child in item.getChildObjects():
        feature = json.loads(str(GsonTools.getInstance().toJson(child)))
        feature["properties"].pop("childObjects", None)
        objects.append(feature | {"parent": parent, "locked": bool(child.isLocked())})
        walk(child, str(child.getID()))
entry = project.images[0]
walk(entry.java_object.readHierarchy().getRootObject(), "root")
if sys.argv[2] == "r+":
    entry._image_data.setChanged(True)
    entry.save()
    project.save()
print(json.dumps({"objects": objects, "classes": [c.name for c in project.path_classes]}))
"""


def python(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(project: Path, *options: str) -> str:
    command = [sys.executable, "-m", "qupath_bridge", "run", str(project), "--device", "cpu"]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def seen(project: Path, mode: str = "r") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(python(DUMP, project, mode))
    return content


def ours(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {o["id"]: o for o in content["objects"] if o["id"].startswith("70736466-")}


def others(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is not ours, without the measurements that we add to annotations."""
    kept = [deepcopy(o) for o in content["objects"] if not o["id"].startswith("70736466-")]
    for item in kept:
        values = item["properties"].get("measurements", {})
        for name in [n for n in values if n.startswith("PathSegDiff: ")]:
            del values[name]
        if not values:
            item["properties"].pop("measurements", None)
    return sorted(kept, key=lambda o: o["id"])


@pytest.fixture
def project(tmp_path, write_tiff, drawn_pixels) -> Path:
    """Return a project made by QuPath, with two annotations and things of the user's own."""
    write_tiff(tmp_path / "bild ä.tif", drawn_pixels, 0.5)
    folder = tmp_path / "Projekt Ü 🔬"
    folder.mkdir()
    python(MAKE, folder / "project.qpproj", tmp_path / "bild ä.tif")
    return folder / "project.qpproj"


def test_a_run_writes_what_qupath_then_finds(project):
    before = seen(project)
    told = run(project)
    assert "paquo: QuPath" in told
    after = seen(project)
    assert others(after) == others(before)

    stored = json.loads((project.parent / "pathsegdiff/1/detections.geojson").read_text("utf-8"))
    made = ours(after)
    assert {f["id"] for f in stored["features"]} == set(made) != set()
    annotations = {o["id"]: o for o in others(before) if o["properties"].get("name")}
    for feature in stored["features"]:
        found = made[feature["id"]]
        assert found["properties"]["objectType"] == "detection"
        wanted = feature["properties"]
        assert found["properties"]["classification"]["name"] == wanted["classification"]["name"]
        assert found["properties"]["name"] in ("tissue", "glands")
        assert found["parent"] in annotations
        values = found["properties"]["measurements"]
        for name in ("Area µm^2", "Mean probability", "Mean entropy"):
            assert values[name] == pytest.approx(wanted["measurements"][name], rel=1e-5)
        same = shape(found["geometry"]).symmetric_difference(shape(feature["geometry"])).area
        assert same == pytest.approx(0, abs=1e-6)

    measured = [o for o in after["objects"] if o["id"] in annotations]
    for item in measured:
        values = item["properties"]["measurements"]
        assert values["mine"] == 3.5 and item["locked"]
        mine = [o for o in made.values() if o["parent"] == item["id"]]
        for name in ("Tumor", "Stroma", "Gland"):
            area_um2 = sum(
                o["properties"]["measurements"]["Area µm^2"]
                for o in mine
                if o["properties"]["classification"]["name"] == name
            )
            assert values[f"PathSegDiff: {name} area µm^2"] == pytest.approx(area_um2, rel=1e-5)
            assert 0 <= values[f"PathSegDiff: {name} %"] <= 100
    assert after["classes"][: len(before["classes"])] == before["classes"]
    assert {"Tumor", "Stroma", "Gland"} <= set(after["classes"])


def test_a_second_run_replaces_exactly_its_own_also_after_qupath_saved(project):
    run(project)
    first = seen(project, "r+")  # reads, and saves everything anew
    assert "0 done / 1 skipped / 0 failed" in run(project)
    assert "1 done / 0 skipped / 0 failed" in run(project, "--restart")
    second = seen(project)
    assert set(ours(second)) == set(ours(first))
    assert others(second) == others(first)


def test_objects_deleted_in_qupath_are_made_again(project):
    run(project)
    shutil.copy(
        project.parent / "data/1/data.qpdata.before-pathsegdiff",
        project.parent / "data/1/data.qpdata",
    )
    assert not ours(seen(project))
    assert "1 done" in run(project)
    assert ours(seen(project))


def test_both_faces_give_the_same_objects(project, tmp_path):
    content = seen(project)
    run(project)
    folder = tmp_path / "portable"
    shutil.copytree(
        project.parent, folder, ignore=shutil.ignore_patterns("pathsegdiff*", "*.qpdata*")
    )
    regions = folder / "pathsegdiff" / "1" / "regions.geojson"
    regions.parent.mkdir(parents=True)
    features = [o for o in content["objects"] if o["properties"]["objectType"] == "annotation"]
    regions.write_text(json.dumps({"type": "FeatureCollection", "features": features}), "utf-8")
    run(folder / "project.qpproj", "--backend", "portable")
    one, other = (
        json.loads((p / "pathsegdiff/1/detections.geojson").read_text("utf-8"))["features"]
        for p in (project.parent, folder)
    )
    assert one == other
    assert shapely.area([shape(f["geometry"]) for f in one]).min() > 0
    tables = [
        (p / "pathsegdiff/class_areas.tsv").read_text("utf-8") for p in (project.parent, folder)
    ]
    assert tables[0] == tables[1]
