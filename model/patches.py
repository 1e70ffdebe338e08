"""Labelled images as the patches that the model sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    pixels, codes = (_at_least(a, side_m) for a in (image.pixels, image.codes))
    codes[image.codes.shape[0] :] = codes[:, image.codes.shape[1] :] = IGNORED
    height, width = codes.shape
    x0, y0 = origin_m
    for y in starts(height, side_m, stride_m):
        for x in starts(width, side_m, stride_m):
            box = np.s_[y : y + side_m, x : x + side_m]
            inside = np.full((side_m, side_m), IGNORED, np.uint8)
            kept = _without_rim((y, x), (height, width), side_m, margin_m)
            inside[kept] = codes[box][kept]
            if (inside != IGNORED).any():
                yield Patch(pixels[box], inside, (x0 + x, y0 + y))


def starts(length_m: int, side_m: int, stride_m: int) -> list[int]:
    """Return where patches begin so that they cover a length; the last may end before it.

    All begin on the lattice, so up to LATTICE_M - 1 pixels at the end are left out.
    """
    last = (length_m - side_m) // LATTICE_M * LATTICE_M
    return [*range(0, last, stride_m), last]


def _without_rim(
    corner: tuple[int, int], size: tuple[int, int], side_m: int, margin_m: int
) -> tuple[slice, slice]:
    """Return the part of a patch whose scores count: no rim, but for the image's own edge."""
    low = [0 if c == 0 else margin_m for c in corner]
    at_end = [c + side_m + LATTICE_M > n for c, n in zip(corner, size, strict=True)]
    high = [side_m if end else side_m - margin_m for end in at_end]
    return slice(low[0], high[0]), slice(low[1], high[1])


def _at_least(plane: np.ndarray, side_m: int) -> np.ndarray:
    """Return a copy reflected to at least `side_m` along both sides."""
    short = [max(0, side_m - n) for n in plane.shape[:2]]
    padding = [(0, short[0]), (0, short[1]), *[(0, 0)] * (plane.ndim - 2)]
    return np.pad(plane, padding, mode="symmetric")
