"""The shipped model as a folder: loading it, and every way in which a folder can be bad."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model import ModelError, find_model, load_segmenter, read_card
from model.home import DEFAULT_MODEL

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copied(tmp_path) -> Path:
    return Path(shutil.copytree(DEFAULT_MODEL, tmp_path / "módel 🔬"))


def reseal(folder: Path, relative: str) -> None:
    """Give the card the hash of a changed file, as a made-up model would have."""
    from model.weights import sha256_of

    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    card["files"][relative] = sha256_of(folder / relative)
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")


def test_the_shipped_model_is_small_and_says_what_it_is():
    card = read_card(DEFAULT_MODEL)
    assert sum(p.stat().st_size for p in DEFAULT_MODEL.rglob("*") if p.is_file()) < 30e6
    assert "Not for diagnosis" in card.intended_use
    assert card.training["recipe"]
    assert list(card.heads) == ["tissue", "glands", "tissue-crc"]
    assert card.choose_heads(None) == ["tissue", "glands"]  # the other one on request
    assert not card.heads["tissue"].classes[0].detections


def test_a_model_in_a_folder_of_any_name_loads(copied):
    assert load_segmenter(copied, device="cpu").heads == ["tissue", "glands"]


def test_a_missing_folder_is_named_with_the_models_there_are(monkeypatch, tmp_path):
    monkeypatch.setenv("QUPATH_PATHSEGDIFF_HOME", str(tmp_path))
    with pytest.raises(ModelError, match=r"no model 'nosuch'.*default"):
        find_model("nosuch")


def test_an_installed_model_is_found_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("QUPATH_PATHSEGDIFF_HOME", str(tmp_path))
    shutil.copytree(DEFAULT_MODEL, tmp_path / "models" / "mine")
    assert find_model("mine") == tmp_path / "models" / "mine"


def test_a_folder_without_a_card_is_not_a_model(tmp_path):
    with pytest.raises(ModelError, match=r"card\.json"):
        find_model(str(tmp_path))


def test_an_incomplete_model_names_the_missing_file(copied):
    (copied / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"incomplete: unet/.* is missing"):
        load_segmenter(copied, device="cpu")


def test_a_changed_file_is_named(copied):
    with (copied / WEIGHTS).open("r+b") as stream:
        stream.seek(-1, 2)
        last = stream.read(1)
        stream.seek(-1, 2)
        stream.write(bytes([last[0] ^ 1]))
    with pytest.raises(ModelError, match="not the file its card describes"):
        load_segmenter(copied, device="cpu")


def test_a_model_of_another_format_says_so(copied):
    card = json.loads((copied / "card.json").read_text(encoding="utf-8"))
    (copied / "card.json").write_text(json.dumps(card | {"format": 99}), encoding="utf-8")
    with pytest.raises(ModelError, match="card format 99, this program reads 2"):
        load_segmenter(copied, device="cpu")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '"x"'])
def test_a_broken_card_is_one_clear_error(copied, text):
    (copied / "card.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"card\.json"):
        read_card(copied)


class Bomb:
    """What unpickling would run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_a_pickle_under_the_name_of_the_weights_is_refused_and_never_run(copied, tmp_path):
    mark = tmp_path / "it ran"
    (copied / WEIGHTS).write_bytes(pickle.dumps(Bomb(mark)))
    reseal(copied, WEIGHTS)
    with pytest.raises(ModelError, match="not a safetensors file"):
        load_segmenter(copied, device="cpu")
    assert not mark.exists()


def test_a_pickle_beside_missing_weights_is_named_but_not_loaded(copied):
    (copied / WEIGHTS).rename(copied / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"diffusion_pytorch_model\.bin is a pickle"):
        load_segmenter(copied, device="cpu")


def test_weights_of_another_shape_are_one_clear_error(copied):
    shutil.copy(copied / "heads/glands.safetensors", copied / "heads/tissue.safetensors")
    reseal(copied, "heads/tissue.safetensors")
    with pytest.raises(ModelError, match=r"tissue\.safetensors does not fit"):
        load_segmenter(copied, device="cpu")


def test_a_head_for_other_features_is_one_clear_error(copied):
    card = json.loads((copied / "card.json").read_text(encoding="utf-8"))
    card["features"]["up_blocks"] = [1, 2]
    card["heads"]["tissue"]["backbone"] = card["heads"]["glands"]["backbone"] = ""
    (copied / "card.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(ModelError, match=r"head tissue .* does not take the features"):
        load_segmenter(copied, device="cpu")


def test_an_unknown_head_lists_those_there_are():
    with pytest.raises(ModelError, match="no head 'nuclei'; it has: tissue, glands"):
        load_segmenter(DEFAULT_MODEL, ["nuclei"], device="cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", ""])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ModelError, match="device"):
        load_segmenter(DEFAULT_MODEL, device=device)


def test_importing_the_package_loads_no_framework():
    code = "import model, sys; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
