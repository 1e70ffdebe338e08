"""The README's first command, as a user runs it, on a slide that the model has never seen."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from qupath_bridge.cli import demo as demo_command
from qupath_bridge.detections import is_ours
from qupath_bridge.store import ResultStore


@pytest.mark.timeout(600)
def test_the_demo_agrees_with_its_truth_on_an_unseen_slide(tmp_path):
    folder = tmp_path / "demo ü"
    command = [sys.executable, "-m", "qupath_bridge", "demo", str(folder), "--seed", "4"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr

    means = {head: float(value) for head, value in re.findall(r"(\w+) +mean ([\d.]+)", told.stdout)}
    assert means["tissue"] >= 0.75 and means["glands"] >= 0.75, told.stdout

    detections = list(ResultStore(folder).read_detections("1"))
    assert {d.head for d in detections} == {"tissue", "glands"}
    assert all(is_ours(d.id) and d.outline_l0.is_valid for d in detections)
    assert all(0 < d.mean_probability <= 1 for d in detections)
    with Image.open(folder / "overlay.png") as picture:
        assert min(picture.size) > 800
        assert np.asarray(picture.convert("RGB")).std() > 20
    assert str(folder / "demo.qpproj") in told.stdout and "Import objects" in told.stdout
    for region in ("Demo region A", "Demo region B"):
        assert told.stdout.count(region) == 8


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    command = [sys.executable, "-m", "qupath_bridge", "demo", str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "not empty" in told.stderr and "Traceback" not in told.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_demos_default_folder_and_seed_are_what_the_help_says():
    defaults = {p.name: p.default for p in demo_command.params}
    assert str(defaults["folder"]) == "pathsegdiff-demo" and defaults["seed"] == 1
