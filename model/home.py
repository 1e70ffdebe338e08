"""Where what this program keeps on a machine lies: its home, and the models in it."""

from __future__ import annotations

import os
from pathlib import Path

from model.card import CARD_FILE
from model.errors import ModelError

DEFAULT_MODEL = Path(__file__).parent / "default"
HOME_VARIABLE = "QUPATH_PATHSEGDIFF_HOME"


def home() -> Path:
    """Return the folder of settings, models, caches and the server's files."""
    named = os.environ.get(HOME_VARIABLE)
    return Path(named) if named else Path.home() / ".qupath-pathsegdiff"


def models_home() -> Path:
    """Return the folder where imported and trained models live."""
    return home() / "models"


def installed_models() -> list[Path]:
    """Return the folders of the shipped model and of all in `models_home()`, by name."""
    return [DEFAULT_MODEL, *sorted(p.parent for p in models_home().glob(f"*/{CARD_FILE}"))]


def model_names() -> str:
    """Return the names of the installed models, to be read."""
    return ", ".join(folder.name for folder in installed_models())


def find_model(name_or_folder: str | None) -> Path:
    """Return the folder of a model: the shipped one, a folder's path, or an installed name.

    Raises:
        ModelError: there is no such model; the message lists the installed ones.
    """
    if name_or_folder in (None, "default"):
        return DEFAULT_MODEL
    installed = models_home() / str(name_or_folder)
    for folder in (Path(str(name_or_folder)), installed):
        if (folder / CARD_FILE).is_file():
            return folder
    if Path(str(name_or_folder)).is_dir() or installed.is_dir():
        raise ModelError(
            f"{name_or_folder} is a folder without {CARD_FILE}, so not a model of this program;"
            " pass the folder that holds card.json"
        )
    raise ModelError(f"no model {name_or_folder!r}: neither a folder nor one of {model_names()}")
