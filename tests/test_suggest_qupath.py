"""Suggestions in a project of the real QuPath: seen, replaced, and nothing else touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shapely.geometry import box, shape
from tiny_models import write_sure_model

from qupath_bridge.detections import is_ours, is_suggestion

pytestmark = [
    pytest.mark.qupath,
    pytest.mark.skipif(
        not os.environ.get("PAQUO_QUPATH_DIR"), reason="no QuPath: PAQUO_QUPATH_DIR is not set"
    ),
]

START = """
import json, sys
from pathlib import Path
from qupath_bridge.project import find_qupath
from qupath_bridge.project.jvm import start_java
start_java(find_qupath())
from paquo.classes import QuPathPathClass
from paquo.projects import QuPathProject
from shapely.geometry import LineString, box
"""

MAKE = (
    START
    + """
from paquo.images import QuPathImageType
with QuPathProject(Path(sys.argv[1]), mode="x") as project:
    own = QuPathPathClass("My own class", color="#102030")
    project.path_classes = [own]
    entry = project.add_image(sys.argv[2], image_type=QuPathImageType.BRIGHTFIELD_H_E)
    for name, kind, roi in [
        ("tumour", "Tumor", box(10, 10, 150, 120)), ("fold", "Ignore*", box(500, 10, 600, 90)),
        ("Annotate next 9", "Ignore*", box(384, 384, 512, 512)),
        ("area", None, box(200, 200, 260, 240)),
    ]:
        annotation = entry.hierarchy.add_annotation(roi, path_class=kind and QuPathPathClass(kind))
        annotation.name = name
        annotation.locked = name == "tumour"
        annotation.measurements["mine"] = 3.5
    entry.hierarchy.add_annotation(LineString([(0, 0), (50, 50)]), path_class=own)
    entry.hierarchy.add_detection(box(110, 110, 120, 120), path_class=own)
"""
)

EDIT = (
    START
    + """
with QuPathProject(Path(sys.argv[1]), mode="r+") as project:
    entry = project.images[0]
    found = {a.name: a for a in entry.hierarchy.annotations}
    one, two = found["Annotate next 1"], found["Annotate next 2"]
    one.java_object.setPathClass(QuPathPathClass("Stroma").java_object)
    guest = entry.hierarchy.add_annotation(two.roi.buffer(-40), path_class=QuPathPathClass("Tumor"))
    guest.name = "drawn inside"
    entry.hierarchy.java_object.getRootObject().removeChildObject(guest.java_object)
    two.java_object.addChildObject(guest.java_object)
    entry._image_data.setChanged(True)
    entry.save()
"""
)

DUMP = (
    START
    + """
from paquo.java import GsonTools
project = QuPathProject(Path(sys.argv[1]), mode="r")
objects = []
def walk(item, parent):
    for child in item.getChildObjects():
        feature = json.loads(str(GsonTools.getInstance().toJson(child)))
        feature["properties"].pop("childObjects", None)
        facts = {"parent": parent, "locked": bool(child.isLocked())}
        objects.append(feature | facts | {"kind": str(child.getClass().getSimpleName())})
        walk(child, str(child.getID()))
walk(project.images[0].java_object.readHierarchy().getRootObject(), "root")
print(json.dumps({"objects": objects, "classes": [c.name for c in project.path_classes]}))
"""
)


def python(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def seen(project: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(python(DUMP, project))
    return content


def suggestions_in(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {o["properties"]["name"]: o for o in content["objects"] if is_suggestion(o["id"])}


def foreign(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [o for o in content["objects"] if not is_suggestion(o["id"])]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_sure_model(folder)
    return folder


@pytest.fixture
def project(tmp_path, write_tiff, drawn_pixels) -> Path:
    """Return a project made by QuPath, with annotations and a detection of the user's own."""
    write_tiff(tmp_path / "bild ä.tif", drawn_pixels, 0.5)
    folder = tmp_path / "Projekt Ü 🔬"
    folder.mkdir()
    python(MAKE, folder / "project.qpproj", tmp_path / "bild ä.tif")
    return folder / "project.qpproj"


def suggest(project: Path, model: Path, *options: str) -> str:
    command = [sys.executable, "-m", "qupath_bridge", "suggest", str(project), "--size", "64"]
    done = subprocess.run(
        [*command, "--model", str(model), "--device", "cpu", "--backend", "paquo", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_suggestions_are_seen_replace_their_own_and_touch_nothing_else(project, tiny):
    before, project_file = seen(project), project.read_bytes()
    told = suggest(project, tiny, "--count", "3")
    assert told.splitlines()[-1] == "3 suggestions in 1 images"
    first = seen(project)
    assert foreign(first) == foreign(before) and first["classes"] == before["classes"]
    assert project.read_bytes() == project_file
    made = suggestions_in(first)
    assert set(made) == {"Annotate next 1", "Annotate next 2", "Annotate next 3"}
    taken = [shape(o["geometry"]) for o in foreign(before) if o["properties"].get("classification")]
    for item in made.values():
        assert (item["kind"], item["locked"], item["parent"]) == (
            "PathAnnotationObject",
            True,
            "root",
        )
        assert item["properties"]["classification"]["name"] == "Ignore*"
        assert 0 < item["properties"]["measurements"]["PathSegDiff: Uncertainty"] <= 1
        square = shape(item["geometry"])
        assert square.equals(box(*square.bounds)) and square.area == 128 * 128
        assert max(square.intersection(area).area for area in taken) == 0
    backup = project.parent / "data" / "1" / "data.qpdata.before-pathsegdiff"
    assert backup.exists()

    python(EDIT, project)
    edited = seen(project)
    suggest(project, tiny, "--count", "2", "--seed", "2")
    second = seen(project)
    kept = next(o for o in second["objects"] if o["id"] == made["Annotate next 1"]["id"])
    assert kept["properties"]["classification"]["name"] == "Stroma"
    assert shape(kept["geometry"]).equals(shape(made["Annotate next 1"]["geometry"]))
    ignored = [
        o
        for o in second["objects"]
        if is_suggestion(o["id"]) and o["properties"]["classification"]["name"] == "Ignore*"
    ]
    assert sorted(o["properties"]["name"] for o in ignored) == [
        "Annotate next 1",
        "Annotate next 2",
    ]
    guests = [o for o in foreign(edited) if o["properties"].get("name") == "drawn inside"]
    assert guests[0]["parent"] == made["Annotate next 2"]["id"]
    guests[0]["parent"] = "root"  # it moves up when its square goes
    in_order = sorted(foreign(second), key=lambda o: o["id"])
    assert in_order == sorted(foreign(edited), key=lambda o: o["id"])


def test_a_run_leaves_suggestions_and_suggestions_leave_a_runs_detections(project, tiny):
    suggest(project, tiny, "--count", "2")
    squares = suggestions_in(seen(project))
    command = [sys.executable, "-m", "qupath_bridge", "run", str(project), "--model", str(tiny)]
    options = ["--device", "cpu", "--heads", "tissue", "--overlap", "0"]
    ran = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and "Annotate next 1" not in ran.stderr, ran.stdout + ran.stderr
    after_run = seen(project)
    assert suggestions_in(after_run) == squares
    assert any(is_ours(o["id"]) for o in after_run["objects"])
    suggest(project, tiny, "--count", "2")
    assert seen(project) == after_run


def test_an_image_that_gets_none_and_has_none_is_not_written(project, tiny):
    data = project.parent / "data" / "1"
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in data.iterdir()}
    code = START + (
        "from qupath_bridge.project import open_project\n"
        "project = open_project(Path(sys.argv[1]), 'paquo')\n"
        "project.write_suggestions(project.images()[0], [])\n"
    )
    python(code, project)
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in data.iterdir()} == before
