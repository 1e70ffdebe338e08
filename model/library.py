"""The models of this machine: a folder each, put in place whole and taken away with care."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.card import CARD_FILE, ModelCard, read_card
from model.errors import ModelError
from model.home import find_model, installed_models, models_home

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEAD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


def check_name(name: str, replace: bool = False) -> None:
    """Check that a model of this name can be made.

    Raises:
        ModelError: the name is not one, is the shipped model's, or is taken.
    """
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"{name!r} cannot name a model: use letters, digits, dot, dash and underscore, up to 64"
        )
    if name == "default":
        raise ModelError("the model 'default' is the shipped one; choose another name")
    folder = models_home() / name
    if folder.exists() and not (folder / CARD_FILE).is_file():
        raise ModelError(f"{folder} is there and is no model; choose another name")
    if folder.exists() and not replace:
        raise ModelError(
            f"there is a model {name} already, in {folder}; choose another name, pass --replace,"
            f" or take it away: qupath-pathsegdiff models remove {name}"
        )


def check_head_name(name: str) -> None:
    """Check that a head can have this name.

    Raises:
        ModelError: it cannot.
    """
    if not _HEAD_NAME.fullmatch(name):
        raise ModelError(
            f"{name!r} cannot name a head: use letters, digits, dash and underscore, up to 40"
        )


@contextmanager
def new_model(name: str, replace: bool = False, made_of: ModelCard | None = None) -> Iterator[Path]:
    """Give an empty folder; what was written there becomes the model `name`, whole or not at all.

    made_of: the card of the model replaced, where what is written rests on that.

    Raises:
        ModelError: the name cannot be used, the system refused to write, or another command has
            made or changed the model meanwhile.
    """
    check_name(name, replace)
    home = models_home()
    beside = home.parent / f".{name}.{os.getpid()}.part"
    try:
        home.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        yield beside
        _refuse_overtaken(home / name, replace, made_of)
        _swap_in(beside, home / name, replace)
    except OSError as error:
        raise ModelError(
            f"cannot write the model {name} into {home} ({error.strerror or error});"
            " make room or make the folder writable, then run again; nothing was left there"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def size_of(folder: Path) -> int:
    """Return how many bytes the files of a model take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def verify_model(name: str) -> ModelCard:
    """Check every file of a model against its card and load all of its weights; return the card.

    Raises:
        ModelError: a file is missing, changed, or does not fit its network.
    """
    from model.weights import load_backbone, load_head  # only here: they bring torch

    folder = find_model(name)
    card = read_card(folder)
    load_backbone(folder, card)
    for head in card.heads:
        load_head(folder, card, head)
    return card


def removable(name: str) -> Path:
    """Return the folder of a model that may be removed.

    Raises:
        ModelError: it is the shipped one, lies elsewhere, or is no model.
    """
    if name == "default":
        raise ModelError("the model 'default' is shipped with the program and stays")
    home = models_home()
    folder = home / name
    if (
        not _NAME.fullmatch(name)
        or folder.is_symlink()
        or folder.resolve().parent != home.resolve()
    ):
        raise ModelError(f"{name!r} is not the name of a model in {home}; only those are removed")
    if not folder.exists():
        known = ", ".join(path.name for path in installed_models()[1:]) or "none"
        raise ModelError(f"there is no model {name} in {home}; there are: {known}")
    if not (folder / CARD_FILE).is_file():
        raise ModelError(f"{folder} has no {CARD_FILE}, so it is no model; remove it by hand")
    return folder


def remove_model(name: str) -> None:
    """Remove a model of `models_home()`; its card goes first, so that half a model is none.

    Raises:
        ModelError: see `removable`, or the system refused.
    """
    folder = removable(name)
    try:
        (folder / CARD_FILE).unlink()
        shutil.rmtree(folder)
    except OSError as error:
        raise ModelError(f"cannot remove {folder} ({error.strerror or error})") from error


def _refuse_overtaken(place: Path, replace: bool, made_of: ModelCard | None) -> None:
    """Refuse to undo what another command did while this one was at work."""
    made = place.exists() and not replace
    if made or (made_of is not None and read_card(place) != made_of):
        raise ModelError(
            f"another command has {'made' if made else 'changed'} the model {place.name} meanwhile,"
            " and it was left so; run this one again: a training goes on from where it stood"
        )


def _swap_in(beside: Path, place: Path, replace: bool) -> None:
    """Put a finished folder in its place; a model there before goes only afterwards."""
    if not (replace and place.exists()):
        beside.rename(place)
        return
    old = beside.with_suffix(".old")
    place.rename(old)
    try:
        beside.rename(place)
    except OSError:
        old.rename(place)
        raise
    shutil.rmtree(old)
