"""Pixels of any box at any size from the best stored level."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qupath_bridge.geometry import BoxL0
from qupath_bridge.slide import bicubic
from qupath_bridge.slide.base import Level, PixelSource

LEVEL_TOLERANCE = 0.01
"""A level up to this much too coarse still serves: enlarging by 1 % costs no detail that is there,
and saves reading four times the pixels where 0.2519 um shall become 0.5 um and a level is at 2."""

MAX_SOURCE_PIXELS = 2304 * 2304
"""Level pixels taken at once; larger reads are done in parts, so memory is bounded."""

ReadLevel = Callable[[int, int, int, int, int], np.ndarray]


@dataclass(frozen=True)
class Span:
    """One axis of one read: where it lies in a level, in pixels of that level.

    The wanted stretch is [start, end), to become `count` pixels; whole pixels [low, high) are
    needed for it, of which [first, last) exist.
    """

    start: float
    end: float
    count: int
    low: int
    high: int
    first: int
    last: int

    @property
    def scale(self) -> float:
        return (self.end - self.start) / self.count


class Resampler:
    """Reads boxes of QuPath's image out of a source's levels."""

    def __init__(
        self, source: PixelSource, levels: tuple[Level, ...], read_level: ReadLevel
    ) -> None:
        self._source = source
        self._levels = levels
        self._read_level = read_level

    def read(self, box: BoxL0, width: int, height: int) -> np.ndarray:
        """Return the box, resampled to width x height, uint8 [height, width, 3]; white outside.

        What a pixel shows depends on its place only, not on the box it was read in.
        """
        level = self._level_for((box.x1 - box.x0) / width, (box.y1 - box.y0) / height)
        across = self._span(0, box.x0, box.x1, width, level.downsample_x, level.width)
        down = self._span(1, box.y0, box.y1, height, level.downsample_y, level.height)
        if across.first >= across.last or down.first >= down.last:
            return np.full((height, width, 3), 255, np.uint8)
        if _pixels(across, down) > MAX_SOURCE_PIXELS and width * height > 1:
            return self._read_halves(box, width, height, across, down)
        return self._read_spans(level.index, across, down)

    def _level_for(self, scale_x: float, scale_y: float) -> Level:
        limit_x, limit_y = scale_x * (1 + LEVEL_TOLERANCE), scale_y * (1 + LEVEL_TOLERANCE)
        fine_enough = [
            level
            for level in self._levels
            if level.downsample_x <= limit_x and level.downsample_y <= limit_y
        ]
        return fine_enough[-1] if fine_enough else self._levels[0]

    def _span(
        self, axis: int, start_l0: float, end_l0: float, count: int, downsample: float, size: int
    ) -> Span:
        origin = self._source.origin_l0[axis]
        start, end = (origin + start_l0) / downsample, (origin + end_l0) / downsample
        scale = (end - start) / count
        on_grid = scale == 1 and start.is_integer()
        margin = 0 if on_grid else bicubic.margin(scale)
        low, high = math.floor(start) - margin, math.ceil(end) + margin
        image_end = math.ceil((origin + self._source.size_l0[axis]) / downsample)
        first = max(low, math.floor(origin / downsample), 0)
        return Span(start, end, count, low, high, first, min(high, image_end, size))

    def _read_halves(
        self, box: BoxL0, width: int, height: int, across: Span, down: Span
    ) -> np.ndarray:
        wide = width > 1 and (across.last - across.first >= down.last - down.first or height == 1)
        if wide:
            cut = width // 2
            x = box.x0 + (box.x1 - box.x0) * cut / width
            left = self.read(box._replace(x1=x), cut, height)
            return np.concatenate([left, self.read(box._replace(x0=x), width - cut, height)], 1)
        cut = height // 2
        y = box.y0 + (box.y1 - box.y0) * cut / height
        upper = self.read(box._replace(y1=y), width, cut)
        return np.concatenate([upper, self.read(box._replace(y0=y), width, height - cut)], 0)

    def _read_spans(self, level: int, across: Span, down: Span) -> np.ndarray:
        pixels = self._read_level(
            level, across.first, down.first, across.last - across.first, down.last - down.first
        )
        # The rim goes on beyond the image, so that its last pixels are not mixed with white.
        rim = [
            (down.first - down.low, down.high - down.last),
            (across.first - across.low, across.high - across.last),
            (0, 0),
        ]
        if any(before or after for before, after in rim):
            pixels = np.pad(pixels, rim, mode="edge")
        wanted = (
            across.start - across.low,
            down.start - down.low,
            across.end - across.low,
            down.end - down.low,
        )
        out = bicubic.resized(pixels, (across.count, down.count), wanted)
        return self._white_outside(out, level, across, down)

    def _white_outside(self, out: np.ndarray, level: int, across: Span, down: Span) -> np.ndarray:
        stored = next(entry for entry in self._levels if entry.index == level)
        out[:, self._is_outside(0, across, stored.downsample_x)] = 255
        out[self._is_outside(1, down, stored.downsample_y)] = 255
        return out

    def _is_outside(self, axis: int, span: Span, downsample: float) -> np.ndarray:
        origin, size = self._source.origin_l0[axis], self._source.size_l0[axis]
        if span.start * downsample - origin >= 0 and span.end * downsample - origin <= size:
            return np.zeros(span.count, bool)  # as nearly always; centres take ten times as long
        centres_l0 = (span.start + (np.arange(span.count) + 0.5) * span.scale) * downsample - origin
        return (centres_l0 < 0) | (centres_l0 >= size)


def _pixels(across: Span, down: Span) -> int:
    return (across.high - across.low) * (down.high - down.low)
