"""A slide at low resolution, read once, for where tissue is and where bare glass."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qupath_bridge.errors import UndecodableError
from qupath_bridge.geometry import BoxL0, Scale
from qupath_bridge.slide import Slide
from qupath_bridge.tissue import TissueSettings, mask_mpp

PART_PIXELS = 256
LEAST_PART_PIXELS = 32
"""A part with damage is read in quarters, down to this: a bad tile costs 0.3 mm, not 2."""

MOST_THREADS = 8


@dataclass(frozen=True)
class Overview:
    """A slide in pixels of about 8 um.

    rgb: uint8 [h, w, 3]; black where the slide is damaged. damaged: bool [h, w]. mpp: um per pixel.
    width_l0, height_l0: of the slide. The last pixels may reach beyond it.
    """

    rgb: np.ndarray
    damaged: np.ndarray
    mpp: float
    scale: Scale
    width_l0: int
    height_l0: int

    @classmethod
    def of(cls, slide: Slide, wanted_mpp: float = TissueSettings.mpp) -> Overview:
        """Return a slide's overview, coarser than wanted where it would not fit in memory.

        On a slide without small levels all of it is decoded for that.

        Raises:
            PixelSizeError: the slide has no pixel size that can be true.
            SlideError: it was removed or changed while it was being read.
        """
        mpp = mask_mpp(slide.width * slide.mpp.x, slide.height * slide.mpp.y, wanted_mpp)
        scale = Scale.between(slide.mpp, mpp)
        width, height = math.ceil(slide.width / scale.x), math.ceil(slide.height / scale.y)
        rgb, damaged = read_past_damage(slide, (0.0, 0.0), scale, (width, height))
        slide.check_unchanged()
        return cls(rgb, damaged, mpp, scale, slide.width, slide.height)


class _Part(NamedTuple):
    """A part of what is read, in its pixels."""

    x: int
    y: int
    width: int
    height: int

    @property
    def pixels(self) -> tuple[slice, slice]:
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    def quarters(self) -> Iterator[_Part]:
        """Yield the parts of it, of half its sides; of what is thin, halves."""
        left, top = (self.width + 1) // 2, (self.height + 1) // 2
        for y, height in ((0, top), (top, self.height - top)):
            for x, width in ((0, left), (left, self.width - left)):
                if width and height:
                    yield _Part(self.x + x, self.y + y, width, height)


def read_past_damage(
    slide: Slide, corner_l0: tuple[float, float], scale: Scale, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return size (width, height) pixels of a slide, from a corner on, and which are damaged.

    uint8 [height, width, 3], black where the slide is damaged; bool [height, width].

    Raises:
        SlideError: the slide was removed or changed while it was being read.
    """
    width, height = size
    rgb, damaged = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), bool)

    def read(part: _Part) -> None:
        box = scale.box_l0(*part)
        x, y = corner_l0
        moved = BoxL0(box.x0 + x, box.y0 + y, box.x1 + x, box.y1 + y)
        try:
            rgb[part.pixels] = slide.read(moved, part.width, part.height)
        except UndecodableError:
            slide.check_unchanged()  # or else the whole file is gone, not a part damaged
            if max(part.width, part.height) <= LEAST_PART_PIXELS:
                damaged[part.pixels] = True
                return
            for quarter in part.quarters():
                read(quarter)

    with ThreadPoolExecutor(default_threads(), "overview") as readers:
        for _ in readers.map(read, _parts(width, height)):
            pass
    return rgb, damaged


def _parts(width: int, height: int) -> Iterator[_Part]:
    side = PART_PIXELS
    for y in range(0, height, side):
        for x in range(0, width, side):
            yield _Part(x, y, min(side, width - x), min(side, height - y))


def default_threads() -> int:
    """Return how many threads decode where nobody says: one for each core, at most 8."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, MOST_THREADS))
