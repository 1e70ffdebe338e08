"""What every reader of image files offers, and what it may say against a file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qupath_bridge.geometry import Mpp

SUPPORTED = "only 8-bit RGB brightfield images can be segmented"


class NotRecognisedError(Exception):
    """The file is not of a kind this reader knows."""


class DamagedError(Exception):
    """The reader knows the kind, but cannot make sense of the file."""


class UnsupportedError(Exception):
    """The file is sound, but cannot be segmented; the text goes on after the file's name."""


class PixelSource(Protocol):
    """An open image file.

    `level_sizes` are (width, height) of the levels as they are stored. QuPath's image is the part
    of `size_l0` pixels whose top left corner is `origin_l0`, in pixels of level 0. `mpp` is what
    the file says, unchecked; None where it says nothing dependable.
    """

    @property
    def level_sizes(self) -> list[tuple[int, int]]: ...

    @property
    def origin_l0(self) -> tuple[int, int]: ...

    @property
    def size_l0(self) -> tuple[int, int]: ...

    @property
    def mpp(self) -> Mpp | None: ...

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return a part of a level that lies inside it, uint8 [height, width, 3]; thread-safe."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Level:
    """One stored level: its size in its own pixels, and level-0 pixels per pixel of it."""

    index: int
    width: int
    height: int
    downsample_x: float
    downsample_y: float


def levels_of(sizes: list[tuple[int, int]]) -> tuple[Level, ...]:
    """Return the usable levels, finest first, with their true downsample along each axis.

    A level that is not smaller than the one before, or whose shape is not the image's, is some
    other picture and is left out.
    """
    levels = [Level(0, *sizes[0], 1.0, 1.0)]
    for index, size in enumerate(sizes[1:], start=1):
        if min(size) < 1:
            continue
        x, y = true_downsamples(sizes[0], size)
        smaller = x > levels[-1].downsample_x and y > levels[-1].downsample_y
        if smaller and 0.9 < x / y < 1.1:
            levels.append(Level(index, *size, x, y))
    return tuple(levels)


def true_downsamples(full: tuple[int, int], level: tuple[int, int]) -> tuple[float, float]:
    """Return level-0 pixels per level pixel along x and y.

    Pyramids are made with whole factors, mostly powers of two, and the size is then rounded down or
    up: 4443 pixels give 2221 at a factor of 2, not of 2.00045, and taking the ratio for the factor
    would shift the far corner. The long side knows the factor best, so what it suggests is tried on
    both sides first. Where no whole number explains the sizes, the ratio is all there is.
    """
    ratios = (full[0] / level[0], full[1] / level[1])
    long_side_first = sorted((0, 1), key=lambda axis: -full[axis])
    for factor in (factor for axis in long_side_first for factor in _whole_near(ratios[axis])):
        if all(_explains(factor, full[axis], level[axis]) for axis in (0, 1)):
            return float(factor), float(factor)
    x, y = (
        next((float(f) for f in _whole_near(ratio) if _explains(f, whole, part)), ratio)
        for ratio, whole, part in zip(ratios, full, level, strict=True)
    )
    return x, y


def _whole_near(ratio: float) -> list[int]:
    """Return whole factors that may be meant by a ratio, the likeliest first."""
    power_of_two = 2 ** max(0, round(math.log2(ratio)))
    return [power_of_two, round(ratio), math.floor(ratio), math.ceil(ratio)]


def _explains(factor: int, full: int, level: int) -> bool:
    return factor > 0 and level in (full // factor, -(-full // factor))


def on_white(rgba: np.ndarray) -> np.ndarray:
    """Return RGB on a white ground of RGBA that is not premultiplied; both uint8 [H, W, C].

    White also where a slide names another background, as QuPath would show it from 0.6 on: to a
    model, glass is white.
    """
    alpha = rgba[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    weighted = rgba[..., :3].astype(np.uint16) * alpha + 255 * (255 - alpha.astype(np.uint16))
    return ((weighted + 127) // 255).astype(np.uint8)
