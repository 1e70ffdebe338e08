"""The tiny model of `tiny_models` as the tests of suggestions want it: two heads that are sure."""

from __future__ import annotations

from pathlib import Path

import tiny_models
from tiny_models import CLASSES, TILE_M, tiny_backbone

from model.card import ModelCard

__all__ = ["CLASSES", "TILE_M", "tiny_backbone", "write_tiny_model"]


def write_tiny_model(folder: Path, heads: tuple[str, ...] = ("tissue", "glands")) -> ModelCard:
    """Write a model of 0.5 um/px with these heads; return its card."""
    return tiny_models.write_tiny_model(folder, heads=heads, sharpness=20)
