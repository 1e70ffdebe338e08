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
from qupath_bridge.geometry import Scale
from qupath_bridge.slide import Slide
from qupath_bridge.tissue import TissueSettings, mask_mpp

PART_PIXELS = 256
MOST_THREADS = 8


@dataclass(frozen=True)
class Overview:
    """A slide in pixels of about 8 um.

    rgb: uint8 [h, w, 3]; black where the slide is damaged. mpp: um per pixel. width_l0, height_l0:
    of the slide. The last pixels may reach beyond it.
    """

    rgb: np.ndarray
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
        rgb = _read(slide, scale, width, height)
        slide.check_unchanged()
        return cls(rgb, mpp, scale, slide.width, slide.height)


class _Part(NamedTuple):
    """A part of the overview."""

    x: int
    y: int
    width: int
    height: int


def _read(slide: Slide, scale: Scale, width: int, height: int) -> np.ndarray:
    """Return a slide at width x height, uint8 [height, width, 3]; black where it is damaged."""
    rgb = np.zeros((height, width, 3), np.uint8)

    def read(part: _Part) -> None:
        out = rgb[part.y : part.y + part.height, part.x : part.x + part.width]
        try:
            out[...] = slide.read(scale.box_l0(*part), part.width, part.height)
        except UndecodableError:
            slide.check_unchanged()  # or else the whole file is gone, not a part damaged

    with ThreadPoolExecutor(default_threads(), "overview") as readers:
        for _ in readers.map(read, _parts(width, height)):
            pass
    return rgb


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
