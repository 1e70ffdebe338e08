"""Where a slide shows nothing but bare glass, for certain: what no model needs to see.

The opposite doubt of `tissue.py`: there, tissue is what is coloured enough; here, glass is only
what is as bright, as grey and as even as the slide's glass, or the scanner's white filling. One
nucleus or thin fibre in a pixel of 8 um darkens it by more; a speck of 1 um may go unnoticed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from qupath_bridge.geometry import BoxL0, Scale
from qupath_bridge.overview import Overview
from qupath_bridge.tissue import PART_ROWS, row_parts

GREY_LEVELS = 4
"""How far from the glass's colour, and from its neighbours, a pixel of glass may be: noise averages
out to less than 1 in 8 um, and slow shading across a slide stays within it."""

FILLING = 254
"""From here on all channels are what scanners write where they did not look."""

DARKEST, MOST_COLOURED = 200, 12
"""Grey levels: darker glass, or more coloured, could not be told from pale mucus."""

LEAST_PIXELS = 64
"""Fewer bright, grey and even pixels than these are no proof that the slide shows glass."""


NEIGHBOURS = 1  # rows that `_even` looks at beyond a pixel's own
SAMPLE = 1_000_000
"""Pixels are enough to know the colour of glass by."""


class Glass:
    """What of a slide is bare glass, seen in pixels of about 8 um.

    mask: bool [h, w], True where glass is. scale: level-0 pixels per pixel of it.
    """

    def __init__(self, mask: np.ndarray, scale: Scale) -> None:
        self.mask, self._scale = mask, scale

    @classmethod
    def of(cls, overview: Overview) -> Glass:
        """Return a slide's glass; no part that cannot be decoded is glass."""
        return cls(glass_mask(overview.rgb), overview.scale)

    def is_glass(self, box_l0: BoxL0) -> bool:
        """Return whether a box, and a pixel of 8 um around it, holds nothing but bare glass.

        What lies outside of the slide is white, and counts as glass.
        """
        return bool(self.are_glass(*(np.array([edge]) for edge in box_l0))[0])

    def are_glass(
        self, x0_l0: np.ndarray, y0_l0: np.ndarray, x1_l0: np.ndarray, y1_l0: np.ndarray
    ) -> np.ndarray:
        """Return the same of many boxes, bool [N], whose edges are each a float [N]."""
        height, width = self.mask.shape
        left, right = _grown(x0_l0, x1_l0, self._scale.x, width)
        top, bottom = _grown(y0_l0, y1_l0, self._scale.y, height)
        found = np.zeros(len(top), bool)
        parts = top // PART_ROWS  # sums over the whole mask would take four times its memory
        for some in (parts == part for part in np.unique(parts)):
            first = int(top[some].min())
            sums = _sums(~self.mask[first : int(bottom[some].max())])
            above, below = top[some] - first, bottom[some] - first
            before, after = left[some], right[some]
            other = sums[below, after] - sums[above, after]
            found[some] = other == sums[below, before] - sums[above, before]
        return found


def glass_mask(rgb: np.ndarray) -> np.ndarray:
    """Return where bare glass is, bool [H, W], in uint8 RGB [H, W, 3] of about 8 um a pixel."""
    colour = _colour_of_glass(rgb)
    mask = np.empty(rgb.shape[:2], bool)
    for rows, part, own in row_parts(rgb, NEIGHBOURS):
        like = _filling(part)
        if colour is not None:
            low, high = colour - GREY_LEVELS, colour + GREY_LEVELS
            like |= _between(part, low, high)
        mask[rows] = (like & _even(part))[own]
    return mask


def _filling(rgb: np.ndarray) -> np.ndarray:
    """Return where scanners did not look, bool [H, W]."""
    return _between(rgb, np.full(3, FILLING), np.full(3, 255))


def _between(rgb: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return where all channels are within bounds, bool [H, W]; many times as fast as by axis."""
    found = np.ones(rgb.shape[:2], bool)
    for c in range(3):
        found &= (rgb[..., c] >= np.ceil(low[c])) & (rgb[..., c] <= np.floor(high[c]))
    return found


def _even(rgb: np.ndarray) -> np.ndarray:
    """Return which pixels are as all around them, bool [H, W]."""
    even = np.ones(rgb.shape[:2], bool)
    for c in range(3):
        highest = ndimage.maximum_filter(rgb[..., c], 3, mode="nearest")
        even &= highest - ndimage.minimum_filter(rgb[..., c], 3, mode="nearest") <= GREY_LEVELS
    return even


def _colour_of_glass(rgb: np.ndarray) -> np.ndarray | None:
    """Return the colour of glass, float [3]; None where none is known.

    Nothing on a slide lets through more light, so the brightest of the even, grey pixels decide.
    """
    found = []
    for _, part, own in row_parts(rgb, NEIGHBOURS):
        even = part[own][(_even(part) & ~_filling(part))[own]]
        red, green, blue = even.T
        darkest = np.minimum(np.minimum(red, green), blue)
        brightest = np.maximum(np.maximum(red, green), blue)
        found.append(even[(darkest >= DARKEST) & (brightest - darkest <= MOST_COLOURED)])
    count = sum(map(len, found))
    if count < max(LEAST_PIXELS, rgb[..., 0].size / 1000):
        return None
    sample = _every(-(-count // SAMPLE), found)
    light = sample.mean(1)
    bright = sample[light >= np.percentile(light, 95) - GREY_LEVELS]
    return np.median(bright, axis=0)


def _every(step: int, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return each step-th row of parts that lie one below the other."""
    begins = np.cumsum([0, *map(len, parts)])
    return np.concatenate([p[-b % step :: step] for p, b in zip(parts, begins, strict=False)])


def _grown(
    start_l0: np.ndarray, end_l0: np.ndarray, scale: float, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask's pixels that stretches touch, and one more at each end, clipped."""
    first = np.floor(np.asarray(start_l0) / scale).astype(int) - 1
    last = np.ceil(np.asarray(end_l0) / scale).astype(int) + 1
    return first.clip(0, size), last.clip(0, size)


def _sums(mask: np.ndarray) -> np.ndarray:
    """Return how many are True above and left of each corner, int32 [h + 1, w + 1]."""
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int32)
    inner = sums[1:, 1:]
    np.cumsum(mask, 0, dtype=np.int32, out=inner)
    np.cumsum(inner, 1, out=inner)
    return sums
