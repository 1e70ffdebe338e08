"""The recipe of the shipped model, run at its smallest size."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model import load_segmenter
from model.library import size_of
from model.novelty import load_embeddings
from model.stem import Stem, StemPlan

RECIPE = Path(__file__).parents[1] / "projects" / "default_model.py"


@pytest.fixture
def stem(tmp_path) -> Path:
    """Return a folder with the weights of a random stem, which the recipe does not train."""
    torch.manual_seed(0)
    (tmp_path / "stem").mkdir()
    weights = {name: tensor.half() for name, tensor in Stem(StemPlan()).state_dict().items()}
    save_file(weights, tmp_path / "stem" / "stem.safetensors")
    return tmp_path / "stem"


@pytest.fixture
def few_tiles(shared_data, tmp_path) -> Path:
    """Return four tiles of two kinds of NCT-CRC, the last held out, and one of all others."""
    source = shared_data / "tiles"
    for folder in [source / "tcga_coad", source / "tnbc", *(source / "nct_crc").iterdir()]:
        place = tmp_path / "tiles" / folder.relative_to(source)
        place.mkdir(parents=True)
        pictures = sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png", ".tif"))
        for picture in pictures[: 4 if folder.name in ("NORM", "TUM") else 1]:
            (place / picture.name).write_bytes(picture.read_bytes())
    return tmp_path / "tiles"


@pytest.mark.timeout(600)
def test_the_recipe_makes_a_model_that_loads_and_says_how_good_it_is(few_tiles, stem, tmp_path):
    command = [sys.executable, str(RECIPE), "--size", "tiny", "--tiles", str(few_tiles)]
    command += ["--stem", str(stem), "--work", str(tmp_path / "work")]
    command += ["--out", str(tmp_path / "model")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    segmenter = load_segmenter(tmp_path / "model", device="cpu")
    card = segmenter.card
    assert list(card.heads) == ["tissue", "glands", "tissue-crc"]
    assert segmenter.heads == ["tissue", "glands"]  # the other one on request
    for name, head in card.heads.items():
        assert head.backbone == card.backbone
        assert set(head.scores) == {kind.name for kind in head.classes}
        # Of so few held-out slides some lack a class, whose score is then null.
        assert all(score is None or 0 <= score <= 1 for score in head.scores.values())
        assert any(score is not None for score in head.scores.values())
        assert load_embeddings(tmp_path / "model", name).shape[1] == 128
    assert card.features.stem is not None and "stem.safetensors" in card.files
    assert size_of(tmp_path / "model") < 30e6
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "loss" not in again.stderr  # every stage was kept
