"""A run that was ended goes on where it stood, and nobody can tell from its result."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from shapely.geometry import box

from qupath_bridge.engine import sweep
from qupath_bridge.pipeline import run_project
from qupath_bridge.settings import RunSettings
from qupath_bridge.store import ResultStore

BAND_TILES = 12
RUN = f"""
import sys
from qupath_bridge.engine import sweep
sweep.BAND_TILES = {BAND_TILES}
from qupath_bridge.cli import main
main()
"""


class Telling:
    """A reporter that may be impatient."""

    def __init__(self, patience: float = np.inf) -> None:
        self.said: list[str] = []
        self.patience, self.tiles = patience, 0

    def begin(self, name, index, count, tiles):
        pass

    def advance(self, tiles):
        self.tiles += tiles
        if self.tiles >= self.patience:
            raise KeyboardInterrupt

    def end(self):
        pass

    def say(self, text):
        self.said.append(text)


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
    monkeypatch.setattr(sweep, "BAND_TILES", BAND_TILES)


@pytest.fixture(scope="module")
def project_in(make_project, write_tiff) -> Callable[[Path], Path]:
    """Return a function that writes a project of two images of clear blobs, to be segmented."""

    def make(folder: Path) -> Path:
        rng = np.random.default_rng(0)
        blobs = rng.integers(60, 230, (7, 7, 3)).repeat(50, 0).repeat(50, 1).astype(np.uint8)
        images = []
        for name, pixels in (("a.tif", blobs), ("b.tif", blobs[:150, ::-1])):
            write_tiff(folder / name, np.ascontiguousarray(pixels), 0.5)
            images.append((folder / name, pixels.shape[1::-1], 0.5))
        outlines = [box(10, 20, 330, 300), box(100, 60, 240, 340)]
        return make_project(folder, images, {1: outlines, 2: [box(0, 0, 350, 150)]})

    return make


@pytest.fixture
def project(tmp_path, project_in) -> Path:
    return project_in(tmp_path)


@pytest.fixture(scope="module")
def settings(sure_model) -> RunSettings:
    chosen = {"min_object_um2": 20.0, "min_hole_um2": 20.0}
    return RunSettings(backend="portable", device="cpu", model=str(sure_model), **chosen)


def left_by(project: Path) -> dict[str, bytes]:
    store = ResultStore(project.parent)
    results = {p.parent.name: p.read_bytes() for p in store.folder.glob("*/detections.geojson")}
    return results | {"areas": store.table.read_bytes()}


def checkpoints(project: Path) -> list[Path]:
    return sorted((project.parent / "pathsegdiff").glob("*/checkpoint/band-*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, project_in, settings) -> dict[str, bytes]:
    """Return what an uninterrupted run of such a project leaves."""
    project = project_in(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "BAND_TILES", BAND_TILES)
        report = run_project(project, settings, Telling())
    assert [o.status for o in report.outcomes] == ["done", "done"], report.summary()
    assert all(o.objects > 50 for o in report.outcomes)
    assert checkpoints(project) == []
    return left_by(project)


@pytest.mark.parametrize("patience", [1, 30, 60, 90])
def test_after_ctrl_c_a_run_goes_on(project, settings, whole, patience):
    impatient = Telling(patience)
    assert run_project(project, settings, impatient).interrupted
    kept = len(checkpoints(project))
    assert kept == 0 if patience == 1 else kept >= 1
    again = Telling()
    report = run_project(project, settings, again)
    assert not report.failed
    assert left_by(project) == whole
    assert any("goes on where it stood" in text for text in again.said) == (kept > 0)
    assert checkpoints(project) == []


def test_what_was_computed_is_not_computed_again(project, settings, whole, monkeypatch):
    run_project(project, settings, Telling(70))
    from model.segmenter import Segmenter

    seen: list[int] = []
    stream = Segmenter.stream

    def counted(self, batches):
        return stream(self, (seen.append(len(batch[1])) or batch for batch in batches))

    monkeypatch.setattr(Segmenter, "stream", counted)
    again = Telling()
    run_project(project, settings, again)
    assert 0 < sum(seen) < again.tiles - 20
    assert left_by(project) == whole


def test_a_damaged_band_is_computed_again(project, settings, whole):
    run_project(project, settings, Telling(90))
    first, *_ = checkpoints(project)
    first.write_bytes(first.read_bytes()[:-5])
    assert not run_project(project, settings, Telling()).failed
    assert left_by(project) == whole


def test_other_settings_begin_anew_and_say_so(project, settings, sure_model):
    run_project(project, settings, Telling(60))
    assert checkpoints(project)
    other = Telling()
    changed = RunSettings(
        backend="portable", device="cpu", model=str(sure_model), heads=("glands",)
    )
    assert not run_project(project, changed, other).failed
    assert any("begun anew" in text for text in other.said)
    assert not any("goes on" in text for text in other.said)


def test_a_restart_begins_anew(project, settings, whole):
    run_project(project, settings, Telling(60))
    again = Telling()
    restart = RunSettings(**{**settings.__dict__, "restart": True})
    assert not run_project(project, restart, again).failed
    assert not any("goes on" in text for text in again.said)
    assert left_by(project) == whole


def started(project: Path, settings: RunSettings) -> subprocess.Popen:
    options = ["--backend", "portable", "--device", "cpu", "--model", settings.model]
    command = [sys.executable, "-c", RUN, "run", str(project), *options]
    smallest = {f"QUPATH_PATHSEGDIFF_MIN_{what}_UM2": "20" for what in ("OBJECT", "HOLE")}
    return subprocess.Popen(
        command,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **smallest},
    )


def kill_times() -> list[object]:
    slow = [
        pytest.mark.slow,
        pytest.mark.timeout(3600),
        pytest.mark.skipif(not os.environ.get("PATHSEGDIFF_SLOW"), reason="PATHSEGDIFF_SLOW=1"),
    ]
    return [pytest.param(2), pytest.param(30, marks=slow)]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("kills", kill_times())
def test_kill_9_at_random_moments_loses_and_doubles_nothing(project, settings, whole, kills):
    rng = random.Random(0)
    done = 0
    while done < kills:
        process = started(project, settings)
        known = len(checkpoints(project))
        deadline = time.monotonic() + 120
        while process.poll() is None and len(checkpoints(project)) <= known:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.random() * 0.2)
        if process.poll() is None:
            done += 1
        process.kill()
        process.wait()
        if process.returncode == 0:  # it was done before it was killed: from the start
            assert left_by(project) == whole
            for result in (project.parent / "pathsegdiff").glob("*/result.json"):
                result.unlink()
    assert started(project, settings).wait(120) == 0
    assert left_by(project) == whole
    assert checkpoints(project) == []
