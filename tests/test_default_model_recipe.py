"""The recipe of the shipped model, run at its smallest size."""

import subprocess
import sys
from pathlib import Path

import pytest

from model import load_segmenter

RECIPE = Path(__file__).parents[1] / "projects" / "default_model.py"


@pytest.mark.timeout(600)
def test_the_recipe_makes_a_model_that_loads_and_says_how_good_it_is(shared_data, tmp_path):
    command = [sys.executable, str(RECIPE), "--size", "tiny", "--tiles", str(shared_data / "tiles")]
    command += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "model")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    segmenter = load_segmenter(tmp_path / "model", device="cpu")
    assert segmenter.heads == ["tissue", "glands"]
    for head in segmenter.card.heads.values():
        assert set(head.scores) == {kind.name for kind in head.classes}
        assert all(0 <= dice <= 1 for dice in head.scores.values())
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "loss" not in again.stderr  # every stage was kept
