"""Runs at their edges: what is at the image's, the clock's, and another run's end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from shapely.geometry import box
from test_resume import RUN, Telling, checkpoints, left_by

from qupath_bridge.engine import sweep
from qupath_bridge.measurements import read_class_areas
from qupath_bridge.pipeline import plan_project, run_project
from qupath_bridge.report import Outcome
from qupath_bridge.settings import RunSettings
from qupath_bridge.store import ResultStore

WIDTH, HEIGHT, MPP = 400, 600, 0.5
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
SPREAD = [box(20, 10, 180, 90), box(200, 250, 380, 330), box(30, 480, 390, 590)]
AROUND = box(5, 5, 395, 595)


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
    monkeypatch.setattr(sweep, "BAND_TILES", 12)


@pytest.fixture
def project_of(tmp_path, make_project, write_tiff):
    """Return a function that writes a project of one image with these annotations."""

    def make(*outlines, pixels=None) -> Path:
        rng = np.random.default_rng(1)
        blobs = rng.integers(60, 230, (12, 8, 3)).repeat(50, 0).repeat(50, 1).astype(np.uint8)
        write_tiff(tmp_path / "a.tif", blobs if pixels is None else pixels, MPP)
        return make_project(tmp_path, [(tmp_path / "a.tif", (WIDTH, HEIGHT), MPP)], {1: outlines})

    return make


@pytest.fixture
def settings(sure_model) -> RunSettings:
    chosen = {"min_object_um2": 20.0, "min_hole_um2": 20.0, "overlap": 0.25}
    return RunSettings(backend="portable", device="cpu", model=str(sure_model), **chosen)


def done(project: Path, settings: RunSettings, reporter: Telling | None = None) -> Outcome:
    """Run a project and return its one image's outcome."""
    (outcome,) = run_project(project, settings, reporter or Telling()).outcomes
    return outcome


def areas(project: Path) -> dict[str, float]:
    """Return by region what the classes of one head cover together, in level-0 pixels."""
    found: dict[str, float] = {}
    rows = read_class_areas(ResultStore(project.parent).table)
    for row in rows:
        if row.head == rows[0].head:
            found[row.region] = found.get(row.region, 0) + row.area_um2 / MPP**2
    return found


# --- resumed ---------------------------------------------------------------------------------


LOST = (slice(0, None, 2), slice(1, None, 2), slice(2, 4), slice(0, 1))


def test_whatever_bands_are_left_the_result_is_the_same(project_of, settings, monkeypatch):
    project = project_of(*SPREAD, AROUND)
    checkpoint = project.parent / "pathsegdiff/1/checkpoint"
    kept = project.parent / "kept"
    write_result = ResultStore.write_result

    def keep_bands(*arguments):
        shutil.copytree(checkpoint, kept)
        write_result(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(ResultStore, "write_result", keep_bands)
        assert done(project, settings).status == "done"
    whole = left_by(project)
    for lost in LOST:
        (project.parent / "pathsegdiff/1/result.json").unlink()
        shutil.copytree(kept, checkpoint)
        bands = checkpoints(project)
        assert len(bands) > 5
        for band in bands[lost]:
            band.unlink()
        said = Telling()
        assert done(project, settings, said).status == "done"
        assert any("goes on" in text for text in said.said)
        assert left_by(project) == whole, lost


def test_a_checkpoint_left_by_a_run_that_was_ended_when_just_done_goes(project_of, settings):
    project = project_of(AROUND)
    run_project(project, settings, Telling(40))
    checkpoint = project.parent / "pathsegdiff/1/checkpoint"
    shutil.copytree(checkpoint, project.parent / "kept")
    assert done(project, settings).status == "done"
    shutil.copytree(project.parent / "kept", checkpoint)
    assert done(project, settings).status == "skipped"
    assert not checkpoint.exists()


def test_a_skipped_image_keeps_what_was_begun_of_it_with_other_settings(project_of, settings):
    project = project_of(AROUND)
    assert done(project, settings).status == "done"
    other = RunSettings(**{**settings.__dict__, "simplify_um": 2.0})
    assert run_project(project, other, Telling(40)).interrupted
    begun = checkpoints(project)
    assert begun
    assert done(project, settings).status == "skipped"
    assert checkpoints(project) == begun
    said = Telling()
    assert done(project, other, said).status == "done"
    assert any("goes on" in text for text in said.said)


def test_a_checkpoint_taken_away_meanwhile_fails_the_image_alone(project_of, settings):
    project = project_of(AROUND)
    checkpoint = project.parent / "pathsegdiff/1/checkpoint"

    class Tidier(Telling):
        def advance(self, tiles):
            super().advance(tiles)
            if checkpoints(project):
                shutil.rmtree(checkpoint, ignore_errors=True)

    outcome = done(project, settings, Tidier())
    assert outcome.status == "failed"
    assert outcome.message.startswith(f"{checkpoint} was taken away while it was written into")
    assert done(project, settings).status == "done"
    resumed = left_by(project)
    assert done(project, RunSettings(**{**settings.__dict__, "restart": True})).status == "done"
    assert left_by(project) == resumed


def test_a_dry_run_leaves_a_checkpoint_alone(project_of, settings):
    project = project_of(AROUND)
    run_project(project, settings, Telling(40))
    before = {path: path.stat().st_mtime_ns for path in project.parent.rglob("*")}
    assert plan_project(project, settings, lambda _: None) == 0
    assert {path: path.stat().st_mtime_ns for path in project.parent.rglob("*")} == before


def test_an_image_that_is_done_is_skipped_without_a_look_at_its_pixels(project_of, settings):
    project = project_of(AROUND)
    assert done(project, settings).status == "done"
    slide = project.parent / "a.tif"
    stat = slide.stat()
    with tifffile.TiffFile(slide) as tif:
        page = tif.pages.first
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with slide.open("r+b") as file:
        for offset, count in places:
            file.seek(offset)
            file.write(os.urandom(count))
    os.utime(slide, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert done(project, settings).status == "skipped"


# --- regions ---------------------------------------------------------------------------------


def test_all_glass_is_done_without_a_tile(project_of, settings):
    inner = box(100, 100, 300, 400)  # what lies half outside of the image is not sure to be glass
    project = project_of(inner, pixels=np.full((HEIGHT, WIDTH, 3), 243, np.uint8))
    outcome = done(project, settings)
    assert (outcome.status, outcome.tiles, outcome.objects) == ("done", 0, 0)
    assert areas(project)["Region 1"] == pytest.approx(inner.area, rel=0.01)


def test_a_region_smaller_than_a_cell_has_its_area(project_of, settings):
    tiny = box(101.2, 203.1, 102.5, 204.2)
    project = project_of(tiny, box(398.9, 598.8, 400, 600), AROUND)
    assert done(project, settings).status == "done"
    found = areas(project)
    assert found["Region 1"] == pytest.approx(tiny.area, abs=0.1)
    assert found["Region 2"] == pytest.approx(1.32, abs=0.1)
    assert found["Region 3"] == pytest.approx(AROUND.area, rel=0.01)


def test_regions_that_are_the_same_are_computed_once_and_found_twice(project_of, settings):
    alone = done(project_of(AROUND), settings).tiles
    project = project_of(AROUND, AROUND)
    assert done(project, settings).tiles == alone
    one, two = (
        [(r.head, r.class_name, r.area_um2, r.objects) for r in rows]
        for rows in (
            [r for r in read_class_areas(ResultStore(project.parent).table) if r.region == name]
            for name in ("Region 1", "Region 2")
        )
    )
    assert one == two


def test_many_small_regions_need_no_file_each(project_of, settings):
    resource = pytest.importorskip("resource", reason="limits of files are not for Windows")
    outlines = [box(x, y, x + 9, y + 9) for y in range(0, 590, 39) for x in range(0, 390, 29)]
    project = project_of(*outlines)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len([*Path("/dev/fd").iterdir()]) + 40, limits[1]))
    try:
        assert done(project, settings).status == "done"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(areas(project)) == len(outlines) > 200
    assert sum(areas(project).values()) == pytest.approx(81 * len(outlines), rel=0.02)


# --- other runs, other times -----------------------------------------------------------------


def command(project: Path, settings: RunSettings) -> list[str]:
    options = ["--backend", "portable", "--device", "cpu", "--model", settings.model]
    return [sys.executable, "-c", RUN, "run", str(project), *options, "--overlap", "0.25"]


def wait_for_bands(process: subprocess.Popen, project: Path, count: int) -> None:
    end = time.monotonic() + 120
    while len(checkpoints(project)) < count:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)


def test_a_second_run_stops_at_once_and_goes_on_when_the_first_was_killed(project_of, settings):
    project = project_of(AROUND)
    first = subprocess.Popen(command(project, settings), stderr=subprocess.DEVNULL)
    try:
        wait_for_bands(first, project, 2)
        first.send_signal(signal.SIGSTOP)  # it may not be done before the second was told
        kept = {path: path.read_bytes() for path in checkpoints(project)}
        second = subprocess.run(command(project, settings), capture_output=True, text=True)
        assert second.returncode == 1
        assert f"is being written by process {first.pid} on" in second.stderr
        assert "\nerror: " in second.stderr and "Traceback" not in second.stderr
        assert {path: path.read_bytes() for path in checkpoints(project)} == kept
    finally:
        first.kill()
        first.wait()
    third = subprocess.run(command(project, settings), capture_output=True, text=True)
    assert third.returncode == 0, third.stderr
    assert "a.tif: goes on where it stood" in third.stderr
    assert third.stdout.splitlines()[-1] == "1 done / 0 skipped / 0 failed"


@pytest.mark.slow
@pytest.mark.skipif(FAKETIME is None, reason="needs Debian's faketime")
@pytest.mark.skipif(not os.environ.get("PATHSEGDIFF_SLOW"), reason="PATHSEGDIFF_SLOW=1")
def test_a_clock_that_jumps_back_and_forth_changes_nothing(project_of, settings, tmp_path):
    project, clock = project_of(AROUND), tmp_path / "clock"
    assert done(project, settings).status == "done"
    whole = left_by(project)
    (project.parent / "pathsegdiff/1/result.json").unlink()
    faked = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "DONT_FAKE_MONOTONIC": "1",
    } | {f"QUPATH_PATHSEGDIFF_MIN_{what}_UM2": "20" for what in ("OBJECT", "HOLE")}
    for before, after in (("+5y", "-30y"), ("-20y", "+20y")):
        clock.write_text(before)
        known = len(checkpoints(project))
        process = subprocess.Popen(
            command(project, settings), env=os.environ | faked, stderr=subprocess.PIPE, text=True
        )
        try:
            wait_for_bands(process, project, known + 1)
            clock.write_text(after)
            if not known:
                process.kill()
            _, told = process.communicate(timeout=120)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0, told
    assert "goes on where it stood" in told
    assert left_by(project) == whole
