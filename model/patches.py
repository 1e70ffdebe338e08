"""Labelled images as the patches that the model sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from model.labels import IGNORED, LabelledPixels

LATTICE_M = 16
"""Patches lie on multiples of this, so that the coarsest features fall on the same places."""


@dataclass(frozen=True)
class Patch:
    """One patch and its truth.

    pixels: uint8 [S, S, 3]. codes: uint8 [S, S], IGNORED where nothing is labelled. origin_m:
    (x, y) of its corner in the noise field.
    """

    pixels: np.ndarray
    codes: np.ndarray
    origin_m: tuple[int, int] = (0, 0)


def patches_of(
    image: LabelledPixels, origin_m: tuple[int, int], side_m: int, stride_m: int, margin_m: int = 0
) -> Iterator[Patch]:
    """Yield the patches that cover an image and have a label, from top to bottom.

    What an image lacks to a whole patch is reflected and not labelled. Labels in a rim of
    `margin_m`, whose scores a run does not use, are left out unless no other patch has them.
    """
    pixels, codes = (at_least(a, side_m) for a in (image.pixels, image.codes))
    codes[image.codes.shape[0] :] = codes[:, image.codes.shape[1] :] = IGNORED
    rows, columns = (starts(length, side_m, stride_m) for length in codes.shape)
    x0, y0 = origin_m
    for y, kept_rows in zip(rows, _without_rims(rows, side_m, margin_m), strict=True):
        for x, kept_columns in zip(columns, _without_rims(columns, side_m, margin_m), strict=True):
            box = np.s_[y : y + side_m, x : x + side_m]
            inside = np.full((side_m, side_m), IGNORED, np.uint8)
            inside[kept_rows, kept_columns] = codes[box][kept_rows, kept_columns]
            if (inside != IGNORED).any():
                yield Patch(pixels[box], inside, (x0 + x, y0 + y))


def starts(length_m: int, side_m: int, stride_m: int) -> list[int]:
    """Return where patches begin so that they cover a length; the last may end before it.

    All begin on the lattice, so up to LATTICE_M - 1 pixels at the end are left out, and the stride
    is brought down to it. One of more than a side would leave gaps, and is taken as a side.
    """
    last = (length_m - side_m) // LATTICE_M * LATTICE_M
    step = max(1, min(stride_m, side_m) // LATTICE_M) * LATTICE_M
    return [*range(0, last, step), last]


def _without_rims(begins: list[int], side_m: int, margin_m: int) -> list[slice]:
    """Return for each patch in a row the part whose labels count: what no neighbour has too.

    Where neighbours share less than two rims, each gives up half of what they share.
    """
    shared = [a + side_m - b for a, b in pairwise(begins)]
    cut = [0, *(min(margin_m, share // 2) for share in shared), 0]
    return [slice(low, side_m - high) for low, high in pairwise(cut)]


def at_least(plane: np.ndarray, side_m: int) -> np.ndarray:
    """Return a copy reflected to at least `side_m` along both sides."""
    short = [max(0, side_m - n) for n in plane.shape[:2]]
    padding = [(0, short[0]), (0, short[1]), *[(0, 0)] * (plane.ndim - 2)]
    return np.pad(plane, padding, mode="symmetric")
