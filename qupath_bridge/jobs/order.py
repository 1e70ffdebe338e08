"""What the child is to do: a request together with what was found for it on this machine."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model import ModelError, find_model, read_card
from model.card import CARD_FILE
from model.home import model_names, models_home
from qupath_bridge.errors import JobError, RequestError
from qupath_bridge.jobs.folder import JobFolder
from qupath_bridge.jobs.request import JobRequest, RequestLimits, parse_job

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
ENOUGH = RequestLimits(sys.maxsize, sys.maxsize, sys.maxsize, sys.maxsize, sys.maxsize)
"""What was accepted once is not judged again."""


@dataclass(frozen=True)
class Order:
    """A request, the files of its images, and the models.

    name: of the model, as clients see it. folder: of the model that segments, or is trained on;
    None: of a training that chooses by itself. heads: chosen, not only asked for.
    """

    request: JobRequest
    paths: Sequence[Path]
    name: str
    folder: Path | None
    heads: Sequence[str]

    def keep(self, folder: JobFolder) -> None:
        """Write the order into a job's folder.

        Raises:
            DiskFullError: the system refused to write; nothing is left.
        """
        content = {
            "body": self.request.body,
            "paths": [str(path) for path in self.paths],
            "name": self.name,
            "folder": self.folder and str(self.folder),
            "heads": list(self.heads),
        }
        folder.write_request(content)


def order_of(request: JobRequest, default: str, resolve: Callable[[str], Path]) -> Order:
    """Return what is to be done for a request; `default` is the server's model, a name or folder.

    Raises:
        RequestError: there is no such model or head.
        ImagePathError: an image cannot be opened here.
    """
    paths = [resolve(sample.image.uri) for sample in request.samples]
    if request.kind == "train":
        base = request.training.base
        folder = None if base is None else _model_folder(base, default, "/options/base")
        return Order(request, paths, str(request.model), folder, request.heads)
    folder = _model_folder(request.model, default, "/model")
    try:
        heads = read_card(folder).choose_heads(request.heads)
    except ModelError as error:
        raise RequestError(str(error), "/heads") from error
    return Order(request, paths, request.model or Path(default).name, folder, heads)


def read_order(folder: JobFolder) -> Order:
    """Return the order in a job's folder.

    Raises:
        JobError: it cannot be read.
    """
    try:
        raw: dict[str, Any] = folder.read_request()
        return Order(
            request=parse_job(raw["body"], ENOUGH),
            paths=[Path(path) for path in raw["paths"]],
            name=raw["name"],
            folder=raw["folder"] and Path(raw["folder"]),
            heads=tuple(raw["heads"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobError(
            f"what was asked for cannot be read from {folder.request} ({error}); ask again"
        ) from error


def _model_folder(name: str | None, default: str, pointer: str) -> Path:
    """Return the folder of an installed model: a client names models, never folders.

    Raises:
        RequestError: there is none of that name.
    """
    try:
        if name in (None, default, Path(default).name):
            return find_model(default)
        if name == "default":
            return find_model(None)
    except ModelError as error:
        raise RequestError(str(error), pointer) from error
    folder = models_home() / str(name)
    if not PLAIN_NAME.fullmatch(str(name)) or not (folder / CARD_FILE).is_file():
        raise RequestError(f"there is no model {name!r}; there is: {model_names()}", pointer)
    return folder
