"""Labelled images: what every source of training data gives, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from model.card import HeadClass

IGNORED = 255


@dataclass(frozen=True)
class LabelledPixels:
    """An image at the model's resolution and its truth.

    pixels: uint8 [H, W, 3]. codes: uint8 [H, W], the index of each pixel's class, or IGNORED.
    instances: int32 [H, W], the id of each object (gland), 0 for none; None where not known.
    """

    pixels: np.ndarray
    codes: np.ndarray
    instances: np.ndarray | None = None


@dataclass(frozen=True)
class LabelledImage:
    """One image that can be read when it is needed.

    name: unique in its set. group: what must stay on one side of a split (a slide, a patient, an
    institute). origin_m: (x, y) of its corner in the noise field, model pixels.
    """

    name: str
    group: str
    read: Callable[[], LabelledPixels]
    origin_m: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class LabelSet:
    """Images of one source, their classes in the order of the codes, and words for the card."""

    classes: tuple[HeadClass, ...]
    images: Sequence[LabelledImage]
    description: str
