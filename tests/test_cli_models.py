"""The command `models` as a user meets it, and the folder of models behind it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from compvis_layout import (
    Sizes,
    conditioner_shapes,
    config_of,
    ldm_state,
    random_weights,
    vit_shapes,
    write_sources,
)

from model import ModelError
from model.home import DEFAULT_MODEL, installed_models, models_home
from model.library import check_name, new_model, remove_model
from qupath_bridge.cli import main

TINY = Sizes(mults=(1, 2), attention=(2,), vq_mults=(1, 1, 1))
COMMANDS = ("import", "list", "show", "verify", "remove", "fetch")


def cli(*arguments: str | Path, input: str | None = None) -> Result:
    """Run the command in this process, which has loaded the frameworks already."""
    return CliRunner().invoke(main, ["models", *map(str, arguments)], input=input)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> tuple[Path, Path, Path]:
    state = ldm_state(TINY, conditioner_shapes(TINY.vit_width, TINY.context))
    vit = random_weights(vit_shapes(TINY), seed=1)
    folder = tmp_path_factory.mktemp("Gewichte 🔬")
    return write_sources(folder, state, vit, config_of(TINY))


@pytest.fixture
def installed() -> Path:
    """Return a copy of the shipped model under the name `mine`."""
    return Path(shutil.copytree(DEFAULT_MODEL, models_home() / "mine"))


def test_a_model_comes_is_shown_checked_and_goes(sources):
    ldm, pth, config = sources
    command = ("import", "brca", "--ldm", ldm, "--encoder", pth, "--config", config)
    made = cli(*command, "--licence", "for research")
    assert made.exit_code == 0 and "PatchEmbedder, one token" in made.stdout, made.stderr
    assert "no heads yet" in made.stdout and made.stderr == ""
    assert cli("list").stdout.splitlines()[1].split("\t")[::2] == ["brca", "no heads yet"]
    shown = cli("show", "brca").stdout
    assert "licence: for research" in shown and "source ldm/last.ckpt: " in shown
    assert "up blocks (0, 1), with condition" in shown
    assert "all weights load" in cli("verify", "brca").stdout

    again = cli(*command)
    assert again.exit_code == 1 and "there is a model brca already" in again.stderr
    assert again.stderr.count("\n") == 1
    assert cli("remove", "brca", input="n\n").exit_code == 1
    assert (models_home() / "brca").is_dir()
    assert cli("remove", "brca", "--yes").exit_code == 0
    assert list(models_home().iterdir()) == []


def test_an_imported_model_without_heads_says_what_to_do_when_it_is_run(sources, small_project):
    from model.importing import Sources, import_model

    import_model("brca", Sources(*sources[:2]))
    told = CliRunner().invoke(main, ["run", str(small_project), "--model", "brca"])
    assert told.exit_code == 1 and "brca has no heads yet" in told.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_there_for_every_command_and_loads_no_framework(command):
    code = (
        "import sys\nfrom qupath_bridge.cli import main\n"
        f"try: main(['models', '{command}', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'scipy', 'shapely'}\n"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("Usage: ")


def test_what_is_wrong_with_a_file_is_one_sentence(sources, tmp_path):
    (tmp_path / "bad.ckpt").write_text("no weights", encoding="utf-8")
    command = ["import", "bad", "--ldm", tmp_path / "bad.ckpt", "--encoder", sources[1]]
    process = [sys.executable, "-m", "qupath_bridge", "models", *map(str, command)]
    told = subprocess.run(process, capture_output=True, text=True, check=False)
    assert told.returncode == 1 and told.stderr.startswith("error: ")
    assert "bad.ckpt" in told.stderr and told.stderr.count("\n") == 1


def test_verify_finds_a_changed_byte_and_list_a_broken_card(installed):
    assert cli("verify", "mine").exit_code == 0
    weights = installed / "unet/diffusion_pytorch_model.safetensors"
    with weights.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x7f")
    told = cli("verify", "mine")
    assert told.exit_code == 1 and "not the file its card describes" in told.stderr
    (installed / "card.json").write_text("{", encoding="utf-8")
    listed = cli("list")
    assert listed.exit_code == 0 and "mine" in listed.stdout and "unusable" in listed.stdout


def test_remove_asks_by_name_and_size(installed):
    told = cli("remove", "mine", input="y\n")
    assert "MB)?" in told.stdout and not installed.exists()


@pytest.mark.parametrize(
    "name", ["default", "..", ".", "../elsewhere", "a/b", "", "~", "C:", str(DEFAULT_MODEL)]
)
def test_nothing_but_a_model_of_the_home_is_removed(installed, name):
    shutil.copytree(DEFAULT_MODEL, models_home().parent / "elsewhere")
    with pytest.raises(ModelError):
        remove_model(name)
    assert installed.is_dir() and DEFAULT_MODEL.is_dir()
    assert (models_home().parent / "elsewhere" / "card.json").is_file()


def test_a_link_and_a_folder_that_is_no_model_are_not_removed(tmp_path, installed):
    notes = models_home() / "notes"
    notes.mkdir()
    (notes / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(ModelError, match="it is no model"):
        remove_model("notes")
    shutil.move(installed, tmp_path / "real")
    (models_home() / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ModelError, match="only those are removed"):
        remove_model("link")
    with pytest.raises(ModelError, match="there is no model gone"):
        remove_model("gone")
    assert (notes / "mine.txt").is_file() and (tmp_path / "real" / "card.json").is_file()


@pytest.mark.parametrize("name", ["default", "", "a b", "../x", "a/b", ".hidden", "x" * 65, "ü"])
def test_a_name_that_cannot_be_one_is_refused(name):
    with pytest.raises(ModelError):
        check_name(name)


def test_a_folder_that_is_no_model_is_never_replaced(tmp_path):
    (models_home() / "notes").mkdir(parents=True)
    with pytest.raises(ModelError, match="is no model"):
        check_name("notes", replace=True)


def test_a_model_that_cannot_be_written_is_one_error_and_leaves_nothing():
    models_home().parent.mkdir(parents=True, exist_ok=True)
    with (
        pytest.raises(ModelError, match=r"cannot write the model full .*No space"),
        new_model("full"),
    ):
        raise OSError(28, "No space left on device")
    assert installed_models() == [DEFAULT_MODEL]
    assert [p.name for p in models_home().parent.iterdir()] == ["models"]


def test_a_home_that_is_a_file_is_one_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    monkeypatch.setenv("QUPATH_PATHSEGDIFF_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="cannot write the model m"), new_model("m"):
        pass


def test_fetch_lists_what_is_known_and_says_the_licence():
    told = cli("fetch").stdout
    assert "hipt-vit256" in told and "non-commercial" in told and "Google Drive" in told
    by_hand = cli("fetch", "crc-20x")
    assert by_hand.exit_code == 1 and "by hand from https://drive.google.com" in by_hand.stderr


def test_fetch_takes_any_address_and_says_the_checksum(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "w.ckpt").write_bytes(b"weights")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        told = cli("fetch", "own", "--url", f"http://127.0.0.1:{server.server_port}/w.ckpt")
        server.shutdown()
        thread.join()
    assert told.exit_code == 0, told.stderr
    assert "(none was stated to compare with)" in told.stdout
    assert (models_home().parent / "downloads/own/w.ckpt").read_bytes() == b"weights"


def test_show_needs_a_model_there_is(installed):
    assert "head glands: Background, Gland" in cli("show", "mine").stdout
    told = cli("show", "nosuch")
    assert told.exit_code == 1 and "no model 'nosuch'" in told.stderr
    card = json.loads((installed / "card.json").read_text(encoding="utf-8"))
    assert card["name"] == "default"  # a copy keeps its card
