"""Slides that change, vanish or are damaged while they are segmented: said, counted, made good."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from shapely.geometry import box
from test_resume import Telling, checkpoints, left_by

from qupath_bridge.engine import sweep
from qupath_bridge.measurements import read_class_areas
from qupath_bridge.pipeline import run_project
from qupath_bridge.report import RunReport
from qupath_bridge.settings import RunSettings
from qupath_bridge.store import ResultStore

WIDTH, HEIGHT, MPP = 800, 700, 0.5
STORED = 16  # side of a stored tile
ONE_BY_ONE = {"batch_size": 1}  # a batch ends with its band, and changes the last bits of scores
INSIDE = 48  # side of the inside of the tiny model's tiles, which do not overlap here


class Meddling(Telling):
    """A reporter that does something once so many tiles are done."""

    def __init__(self, after: int, action: Callable[[], object]) -> None:
        super().__init__()
        self.after, self.action = after, action

    def advance(self, tiles):
        super().advance(tiles)
        if self.tiles >= self.after and self.action:
            action, self.action = self.action, None
            action()


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
    monkeypatch.setattr(sweep, "BAND_TILES", 40)


def write_slide(path: Path, seed: int = 0) -> None:
    """Write pink tissue in blobs, in many small stored tiles."""
    rng = np.random.default_rng(seed)
    coarse = np.array([200, 120, 170]) + rng.integers(-50, 50, (7, 8, 3))
    pixels = coarse.repeat(100, 0).repeat(100, 1).astype(np.uint8)
    stored = {"tile": (STORED, STORED), "compression": "jpeg", "resolutionunit": 3}
    per_cm = 1e4 / MPP
    tifffile.imwrite(path, pixels, photometric="rgb", resolution=(per_cm, per_cm), **stored)


@pytest.fixture(scope="module")
def project_in(make_project) -> Callable[[Path], Path]:
    """Return a function that writes a project of two images, and of the second a small region."""

    def make(folder: Path) -> Path:
        images = []
        for seed, name in enumerate(("a.tif", "b.tif")):
            write_slide(folder / name, seed)
            images.append((folder / name, (WIDTH, HEIGHT), MPP))
        return make_project(folder, images, {2: [box(0, 0, 300, 200)]})

    return make


@pytest.fixture
def project(tmp_path, project_in) -> Path:
    return project_in(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, project_in, settings) -> dict[str, bytes]:
    """Return what is left by a run without trouble, through the bands of everybody."""
    project = project_in(tmp_path_factory.mktemp("whole"))
    assert not run_project(project, settings(**ONE_BY_ONE), Telling()).failed
    return left_by(project)


@pytest.fixture
def slide(project) -> Path:
    return project.parent / "a.tif"


@pytest.fixture(scope="module")
def settings(sure_model) -> Callable[..., RunSettings]:
    def of(**more) -> RunSettings:
        chosen = {"min_object_um2": 20.0, "min_hole_um2": 20.0, "overlap": 0.0}
        return RunSettings(
            backend="portable", device="cpu", model=str(sure_model), **(chosen | more)
        )

    return of


def break_tiles(path: Path, rows: range, columns: range) -> None:
    """Make stored tiles undecodable; size and time of the file stay."""
    stat = path.stat()
    with tifffile.TiffFile(path) as tif:
        page, across = tif.pages.first, -(-WIDTH // STORED)
        places = [
            (page.dataoffsets[row * across + column], page.databytecounts[row * across + column])
            for row in rows
            for column in columns
        ]
    with path.open("r+b") as file:
        for offset, count in places:
            file.seek(offset)
            file.write(b"\x07" * count)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def outcomes(report: RunReport) -> list[str]:
    return [outcome.status for outcome in report.outcomes]


# --- changed, replaced, gone -----------------------------------------------------------------


def taken_away(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def replaced(path: Path) -> None:
    write_slide(path.with_suffix(".new"), seed=7)
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize(
    ("trouble", "told"),
    [(taken_away, "was removed while"), (cut, "was changed from"), (replaced, "was changed")],
)
def test_a_slide_in_trouble_fails_alone_and_put_back_goes_on(
    project, slide, settings, whole, trouble, told
):
    chosen = settings(**ONE_BY_ONE)
    shutil.copy2(slide, slide.with_suffix(".kept"))

    report = run_project(project, chosen, Meddling(80, lambda: trouble(slide)))
    assert outcomes(report) == ["failed", "done"]
    message = report.outcomes[0].message
    assert str(slide) in message and told in message and "put it back and run again" in message
    assert "unexpected" not in message and "\n" not in message
    assert checkpoints(project)

    slide.unlink(missing_ok=True)
    shutil.copy2(slide.with_suffix(".kept"), slide)
    again = Telling()
    assert outcomes(run_project(project, chosen, again)) == ["done", "skipped"]
    assert any("goes on where it stood" in text for text in again.said)
    assert left_by(project) == whole
    assert checkpoints(project) == []


def test_another_slide_in_its_place_is_begun_anew_and_that_is_said(project, slide, settings):
    chosen = settings(images=("a.tif",), regions="slide")
    assert run_project(project, chosen, Meddling(80, lambda: replaced(slide))).failed
    assert checkpoints(project)
    again = Telling()
    assert not run_project(project, chosen, again).failed
    assert any("made from something else; it is begun anew" in text for text in again.said)
    assert not any("goes on" in text for text in again.said)
    resumed = left_by(project)
    run_project(project, settings(images=("a.tif",), regions="slide", restart=True), Telling())
    assert left_by(project) == resumed


# --- tiles that do not decode ----------------------------------------------------------------


def missing_l0(project: Path) -> float:
    """Return the area that no class has of the first head's regions, in level-0 pixels."""
    rows = read_class_areas(ResultStore(project.parent).table)
    head = rows[0].head
    return WIDTH * HEIGHT - sum(r.area_um2 for r in rows if r.head == head) / MPP**2


@pytest.mark.parametrize("regions", ["slide", "tissue"])
def test_tiles_that_do_not_decode_are_told_counted_and_without_a_class(
    project, slide, settings, regions
):
    chosen = settings(images=("a.tif",), regions=regions)
    assert not run_project(project, chosen, Telling()).failed
    assert missing_l0(project) < 50
    sound = left_by(project)
    break_tiles(slide, range(20, 21), range(30, 31))  # at (480, 320): where four tiles meet
    restarted = settings(images=("a.tif",), regions=regions, restart=True)
    report = run_project(project, restarted, reporter := Telling())
    (outcome,) = report.outcomes
    assert outcome.status == "done"
    assert outcome.warnings == [
        f"{count_of(outcome.warnings)} of {outcome.tiles} tiles could not be decoded and were left"
        " without a class"
    ]
    assert f"a.tif: {outcome.warnings[0]}" in reporter.said
    told = json.loads((project.parent / "pathsegdiff/run.json").read_text(encoding="utf-8"))
    assert told["images"][0]["warnings"] == outcome.warnings
    lost = count_of(outcome.warnings)
    assert 1 <= lost <= 0.01 * outcome.tiles
    assert missing_l0(project) == pytest.approx(lost * INSIDE**2, rel=0.02)
    assert left_by(project) != sound


def count_of(warnings: list[str]) -> int:
    return int(warnings[0].split()[0])


def test_the_count_survives_an_interruption(project, slide, settings):
    chosen = settings(images=("a.tif",), regions="slide")
    break_tiles(slide, range(5, 6), range(5, 6))
    expected = run_project(project, chosen, Telling()).outcomes[0].warnings
    whole = left_by(project)
    assert len(expected) == 1
    (project.parent / "pathsegdiff/1/result.json").unlink()
    assert run_project(project, chosen, Telling(150)).interrupted
    assert checkpoints(project)
    again = Telling()
    report = run_project(project, chosen, again)
    assert any("goes on" in text for text in again.said)
    assert report.outcomes[0].warnings == expected
    assert left_by(project) == whole


@pytest.mark.parametrize("regions", ["auto", "tissue"])
def test_more_than_one_in_a_hundred_fails_the_image_until_it_is_copied_again(
    project, slide, settings, whole, regions
):
    chosen = settings(regions=regions, **ONE_BY_ONE)
    shutil.copy2(slide, slide.with_suffix(".kept"))
    break_tiles(slide, range(20, 40), range(20, 40))
    for _ in range(2):
        outcome, _ = run_project(project, chosen, Telling()).outcomes
        assert outcome.status == "failed"
        count, _, tiles = outcome.message.removeprefix(f"{slide} is damaged: ").split()[:3]
        assert int(tiles) > int(count) > 0.01 * int(tiles)
        assert outcome.message.endswith("could not be decoded, more than 1%; copy the file again")
    shutil.copy2(slide.with_suffix(".kept"), slide)  # of the same size and time
    assert not run_project(project, chosen, Telling()).failed
    if regions == "auto":
        assert left_by(project) == whole
    else:
        assert missing_l0(project) < 50
