"""The command that runs the benchmarks, on small sizes; what it measures is not looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qupath_bridge.geometry import BoxL0
from qupath_bridge.overview import Overview
from qupath_bridge.regions import tissue_region
from qupath_bridge.slide import open_slide

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "tests" / "benchmarks"


def python(script: str, *arguments: object, **environment: str) -> str:
    known = {k: v for k, v in os.environ.items() if k != "PAQUO_QUPATH_DIR"}
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**known, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_command_leaves_results_a_table_and_a_picture(tmp_path: Path) -> None:
    command = ("all.py", "--out", tmp_path, "--quick")
    python(*command, "--only", "tracing")
    said = python(*command, "--only", "write_objects", "--only", "lazyslide")
    found = {raw["name"]: raw for raw in json.loads((tmp_path / "results.json").read_text())}
    ratios = [(one["ours"] / one["other"], one["ratio"]) for one in found["tracing"]["records"]]
    assert len(ratios) == 2
    assert all(told == pytest.approx(true) for true, told in ratios)
    assert found["tracing"]["status"] == "done"
    assert "cores" in found["tracing"]["machine"]
    assert found["write_objects"]["status"].startswith("skipped: no QuPath")
    assert found["lazyslide"]["status"].startswith("skipped: no LazySlide")
    table = (tmp_path / "table.md").read_text()
    assert table.count("| tracing: ") == 2
    assert table in said
    with Image.open(tmp_path / "ratios.png") as picture:
        assert np.asarray(picture.convert("L")).min() < 50


def test_a_benchmark_that_fails_is_told_and_the_command_fails(tmp_path: Path) -> None:
    (tmp_path / "slides").write_text("no folder")
    with pytest.raises(AssertionError, match="failed: FileExistsError"):
        python("all.py", "--out", tmp_path, "--quick", "--only", "area")
    (result,) = json.loads((tmp_path / "results.json").read_text())
    assert result["records"] == []


def test_goals_are_bounds_of_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from records import Record

    def holds(ours: float, **goal: float) -> bool | None:
        return Record("a", "b", ours, 10.0, "c", "s", **goal).holds

    assert holds(11.0) is None
    assert holds(11.0, at_most=1.1)
    assert not holds(11.1, at_most=1.1)
    assert holds(5.0, at_least=0.5)
    assert not holds(4.9, at_least=0.5)


def test_a_sparse_slide_has_the_same_islands_everywhere(tmp_path: Path) -> None:
    path, period = tmp_path / "sparse.tif", 5120
    python("sparse_slide.py", path, "--side", 2 * period)
    with open_slide(path) as slide:
        assert [level.downsample_x for level in slide.levels] == [1, 4, 16, 64]
        assert slide.mpp == (0.5, 0.5)
        tissue = tissue_region(Overview.of(slide))
        assert tissue is not None
        islands = list(tissue.outline_l0.geoms)
        assert len(islands) == 4
        assert 0.05 < tissue.outline_l0.area / (2 * period) ** 2 < 0.09
        first = slide.read(BoxL0(2000, 2000, 3000, 3000), 1000, 1000)
        last = slide.read(
            BoxL0(2000 + period, 2000 + period, 3000 + period, 3000 + period), 1000, 1000
        )
        coarse = slide.read(BoxL0(0, 0, 2 * period, 2 * period), 160, 160)
    assert np.array_equal(first, last)
    assert first.std() > 20
    assert np.array_equal(coarse[:80, :80], coarse[80:, 80:])
