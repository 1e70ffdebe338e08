"""The models of this machine as clients see them; only their cards are read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from model.card import HeadCard, read_card
from model.errors import ModelError
from model.home import DEFAULT_MODEL, find_model, installed_models

LOG = logging.getLogger(__name__)


def describe_models(default: str) -> list[dict[str, Any]]:
    """Return the models, the server's own (`default`, a name or folder) among them.

    One whose card cannot be read is left out, and the log says so.
    """
    own = find_model(default)
    folders = installed_models()
    listed = folders if own in folders else [own, *folders]
    return [told for folder in listed if (told := _described(folder, folder == own)) is not None]


def _described(folder: Path, is_default: bool) -> dict[str, Any] | None:
    try:
        card = read_card(folder)
    except ModelError as error:
        LOG.warning("left out: %s", error)
        return None
    return {
        "name": "default" if folder == DEFAULT_MODEL else folder.name,
        "version": card.version,
        "pixelSizeMicrons": card.mpp,
        "default": is_default,
        "heads": [_head(name, head) for name, head in card.heads.items()],
    }


def _head(name: str, head: HeadCard) -> dict[str, Any]:
    return {
        "name": name,
        "description": head.description,
        "onRequest": head.on_request,
        "classes": [
            {"name": c.name, "color": list(c.color), "detections": c.detections}
            for c in head.classes
        ],
    }
