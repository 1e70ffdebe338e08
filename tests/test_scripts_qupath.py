"""Each script, run by the real QuPath without a window on a real slide, beside what `run` does."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from shapely.geometry import shape
from test_pipeline_qupath import MAKE, ours, python, seen

QUPATH = Path(os.environ.get("PAQUO_QUPATH_DIR", "")) / "bin" / "QuPath"

pytestmark = [
    pytest.mark.qupath,
    pytest.mark.skipif(
        not os.environ.get("PAQUO_QUPATH_DIR"), reason="no QuPath: PAQUO_QUPATH_DIR is not set"
    ),
    pytest.mark.skipif(not QUPATH.is_file(), reason=f"this QuPath has no command {QUPATH}"),
    pytest.mark.timeout(900),  # a QuPath starts for every script
]
LIMIT_S = 280


@dataclass
class Place:
    """A home with a tiny model and installed scripts, and a project that nobody changes."""

    home: Path
    scripts: Path
    template: Path

    def environment(self) -> dict[str, str]:
        return {**os.environ, "QUPATH_PATHSEGDIFF_HOME": str(self.home)}

    def command(self, *arguments: object) -> str:
        """Return what a command of ours says; it must succeed."""
        argv = [sys.executable, "-m", "qupath_bridge", *map(str, arguments)]
        done = subprocess.run(
            argv, env=self.environment(), capture_output=True, text=True, timeout=LIMIT_S
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def script(self, name: str, project: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a script of the menu, `options` being QuPath's; no stack trace may be seen."""
        file = self.scripts / f"{name}.groovy"
        argv = [QUPATH, "-l", "ERROR", "script", *options, "-p", project, file]
        done = subprocess.run(
            argv, env=self.environment(), capture_output=True, text=True, timeout=LIMIT_S
        )
        assert "\tat " not in done.stdout + done.stderr
        return done

    def ok(self, name: str, project: Path, *options: str) -> str:
        done = self.script(name, project, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "error:" not in done.stdout + done.stderr
        return done.stdout

    def set(self, name: str, setting: str, value: str) -> None:
        file = self.scripts / f"{name}.groovy"
        text, changed = re.subn(
            rf"^{setting} = \S+", f"{setting} = {value}", file.read_text(), flags=re.MULTILINE
        )
        assert changed == 1
        file.write_text(text)


@pytest.fixture(scope="module")
def slide(tmp_path_factory, write_tiff, drawn_pixels, request) -> Path:
    """Return a real slide, or a drawn one where there is none."""
    folder = tmp_path_factory.mktemp("Präparate #1")
    with suppress(pytest.skip.Exception):
        real = request.getfixturevalue("shared_data") / "CMU-1-Small-Region.svs"
        found = next(iter(real.parent.rglob(real.name)), None)
        if found:
            return Path(shutil.copy(found, folder / "Präparat 1.svs"))
    write_tiff(folder / "Präparat 1.tif", drawn_pixels, 0.5)
    return folder / "Präparat 1.tif"


@pytest.fixture(scope="module")
def place(tmp_path_factory, slide) -> Iterator[Place]:
    from tiny_models import write_sure_model  # only here: it brings torch

    root = tmp_path_factory.mktemp("qupath")
    home, user_dir, template = root / "Heim ü", root / "v0.5", root / "template"
    # Sure of what they say, so that they find something: an annotation in which nothing at all was
    # found does not tell which of the heads with such classes was there.
    write_sure_model(home / "models" / "tiny", heads=("first",))
    write_sure_model(home / "models" / "pair", heads=("one", "two"))
    for folder in (user_dir, template):
        folder.mkdir()
    python(MAKE, template / "project.qpproj", slide)
    made = Place(home, user_dir / "scripts" / "PathSegDiff", template)
    options = ["--root", str(slide.parent), "--device", "cpu"]
    (home / "launcher.json").write_text(
        json.dumps({"command": ["serve", *options], "version": "0"}), encoding="utf-8"
    )
    made.command("scripts", "install", "--user-dir", user_dir)
    for name in ("Segment selection", "Segment tissue"):
        made.set(name, "model", "'tiny'")
    yield made
    with suppress(OSError):
        pid = json.loads((home / "connection.json").read_text(encoding="utf-8"))["pid"]
        os.kill(pid, signal.SIGTERM)


@pytest.fixture
def new_project(place, tmp_path) -> Callable[[str], Path]:
    """Return a function that gives a copy of the project."""

    def new(name: str) -> Path:
        return Path(shutil.copytree(place.template, tmp_path / name)) / "project.qpproj"

    return new


def objects(project: Path) -> dict[str, dict[str, Any]]:
    """Return all objects by id: shapes as shapes, since rings run either way round."""
    content = {o["id"]: o for o in seen(project)["objects"]}
    for item in content.values():
        item["geometry"] = shape(item["geometry"]).normalize().wkt
    return content


def run(place: Place, project: Path, *options: str) -> None:
    place.command("run", project, "--model", "tiny", "--device", "cpu", *options)


@pytest.fixture(scope="module")
def by_run(place, tmp_path_factory) -> Path:
    """Return a copy of the project on whose annotations `run` was run; nobody may change it."""
    folder = shutil.copytree(place.template, tmp_path_factory.mktemp("run") / "run")
    run(place, folder / "project.qpproj")
    return folder / "project.qpproj"


@pytest.fixture(scope="module")
def wanted(by_run) -> dict[str, dict[str, Any]]:
    """Return the objects that `run` leaves."""
    found = objects(by_run)
    assert ours({"objects": list(found.values())})
    return found


def test_segment_selection_gives_what_run_gives_and_again_the_same(place, new_project, wanted):
    project = new_project("Skript Ü")
    told = place.ok("Segment selection", project, "-s")
    assert "all 2 area annotations are taken" in told and "Area mm^2" in told
    assert objects(project) == wanted
    place.ok("Segment selection", project, "-s")
    assert objects(project) == wanted


def classes(project: Path) -> dict[str, int]:
    """Return the colours of the project's classes by name."""
    file = project.parent / "classifiers" / "classes.json"
    listed = json.loads(file.read_text(encoding="utf-8"))["pathClasses"]
    assert len({kind["name"] for kind in listed}) == len(listed)
    return {kind["name"]: kind["color"] for kind in listed}


def test_one_head_after_another_leaves_what_run_leaves(place, new_project):
    by_script, also = new_project("heads by script"), new_project("heads by run")
    blue = -16776961
    listed = json.dumps({"pathClasses": [{"name": "Tumor", "color": blue}]})
    for project in (by_script, also):
        (project.parent / "classifiers").mkdir(exist_ok=True)
        (project.parent / "classifiers" / "classes.json").write_text(listed)
    place.set("Segment selection", "model", "'pair'")
    for head in ("one", "two"):
        place.set("Segment selection", "heads", f"['{head}']")
        place.ok("Segment selection", by_script, "-s")
        place.command("run", also, "--model", "pair", "--device", "cpu", "--heads", head)
    place.set("Segment selection", "heads", "[]")
    place.set("Segment selection", "model", "'tiny'")
    found = objects(by_script)
    assert found == objects(also)
    assert "PathSegDiff: one: Tumor %" in json.dumps(list(found.values()))
    assert classes(by_script) == classes(also)
    assert classes(by_script)["Tumor"] == blue and "Stroma" in classes(by_script)


def test_without_save_nothing_is_kept(place, new_project):
    project = new_project("unsaved")
    place.ok("Segment selection", project)
    data = Path("data", "1", "data.qpdata")
    assert (project.parent / data).read_bytes() == (place.template / data).read_bytes()


def test_the_server_is_told_what_the_project_says_of_the_image(place, new_project, slide):
    project = new_project("told")
    place.ok("Segment selection", project)
    jobs = (place.home / "server" / "jobs").iterdir()
    newest = max(jobs, key=lambda folder: folder.stat().st_mtime)
    image = json.loads((newest / "request.json").read_text(encoding="utf-8"))["body"]["image"]
    entry = json.loads(project.read_text(encoding="utf-8"))["images"][0]
    assert image["serverBuilder"] == entry["serverBuilder"]
    assert image["entryID"] == str(entry["entryID"]) and image["name"] == entry["imageName"]
    assert Path(image["project"]) == project
    assert image["imageType"] == "BRIGHTFIELD_H_E"
    assert image["pixelSizeMicrons"]["w"] == pytest.approx(0.5, abs=0.01)


def test_segment_tissue_gives_what_run_gives(place, new_project):
    by_script, also = new_project("script"), new_project("also by run")
    place.ok("Segment tissue", by_script, "-s")
    run(place, also, "--regions", "tissue")
    found = objects(also)
    assert {o["parent"] for o in ours({"objects": list(found.values())}).values()} == {"root"}
    assert objects(by_script) == found


def test_a_project_goes_to_a_machine_without_qupath_and_comes_back(place, new_project, wanted):
    here = new_project("here")
    assert "3 annotations" in place.ok("Export regions", here)
    run(place, here, "--backend", "portable")
    place.ok("Import results", here, "-s")
    assert objects(here) == wanted
    place.ok("Import results", here, "-s")
    assert objects(here) == wanted


def test_what_run_wrote_is_imported_whole_and_without_a_warning(by_run, tmp_path):
    file = by_run.parent / "pathsegdiff" / "1" / "detections.geojson"
    script = tmp_path / "read.groovy"
    script.write_text(
        "import qupath.lib.io.PathIO\n"
        f"println(PathIO.readObjects(new File({json.dumps(str(file))}))*.ID.join(' '))\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [QUPATH, "-l", "WARN", "script", script], capture_output=True, text=True, timeout=LIMIT_S
    )
    features = json.loads(file.read_text(encoding="utf-8"))["features"]
    assert features and done.stdout.split() == [feature["id"] for feature in features]


def table(file: Path) -> list[list[str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream, delimiter="\t"))


def test_class_areas_are_those_of_run_but_for_classes_that_make_no_objects(place, by_run):
    told = place.ok("Export class areas", by_run)
    rows = table(by_run.parent / "pathsegdiff" / "class_areas_qupath.tsv")
    assert f"{len(rows) - 1} rows" in told
    listed = table(by_run.parent / "pathsegdiff" / "class_areas.tsv")
    assert rows == [row for row in listed if row[5] != "Background"]
    assert len(rows) > 2


def test_an_error_is_one_sentence_on_stderr_and_a_status(place, new_project):
    place.set("Segment tissue", "heads", "['nope']")
    done = place.script("Segment tissue", new_project("error"))
    place.set("Segment tissue", "heads", "[]")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("PathSegDiff: error: ") and "nope" in line


def test_without_an_image_or_results_the_remedy_is_told(place, new_project):
    done = place.script("Import results", new_project("none"))
    assert done.returncode == 1 and "Export regions" in done.stderr


def test_a_head_is_trained_and_then_there(place, new_project):
    name = "Train a head from these annotations"
    for setting, value in {"model": "'mine'", "base": "'tiny'", "steps": "2"}.items():
        place.set(name, setting, value)
    project = new_project("train")
    assert "has learned the head my-head" in place.ok(name, project)
    told = place.ok("Check the connection", project)
    assert "model mine" in told and "head my-head" in told and "Tumor" in told


def test_nothing_to_cancel_is_told(place, new_project):
    assert "no job to cancel" in place.ok("Cancel my jobs", new_project("cancel"))


def test_a_script_that_is_not_installed_says_so(place, new_project, tmp_path):
    done = subprocess.run(
        [QUPATH, "-l", "ERROR", "script", place.scripts / "Cancel my jobs.groovy"],
        env={**os.environ, "QUPATH_PATHSEGDIFF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert "scripts install" in done.stderr and "\tat " not in done.stderr
