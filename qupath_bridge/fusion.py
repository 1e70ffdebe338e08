"""Overlapping tiles' class probabilities -> the class map of a region, band by band."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import xlogy
from shapely.geometry.base import BaseGeometry

from qupath_bridge.errors import TilingError
from qupath_bridge.tiles import Tile, TilePlan

NODATA = 255
COLLAR = 2  # cells around a region's bounds, so that no outline ends at the map's edge


@dataclass(frozen=True)
class MapFrame:
    """Where a class map lies: its top left corner and the side of a cell, in model pixels.

    height, width: in cells.
    """

    x_m: int
    y_m: int
    cell_m: int
    height: int
    width: int

    @classmethod
    def around(cls, outline_m: BaseGeometry, cell_m: int) -> MapFrame:
        """Return the frame of an outline's bounds and a collar, its corner on whole cells."""
        x0, y0, x1, y1 = outline_m.bounds
        left, top = math.floor(x0 / cell_m) - COLLAR, math.floor(y0 / cell_m) - COLLAR
        right, bottom = math.ceil(x1 / cell_m) + COLLAR, math.ceil(y1 / cell_m) + COLLAR
        return cls(left * cell_m, top * cell_m, cell_m, bottom - top, right - left)


@dataclass(frozen=True)
class ClassMap:
    """The winning class of each cell, and how sure it is: of a region or a band of its rows.

    codes: uint8 [H, W], `NODATA` where nothing was computed. probability: float32 [H, W] of the
    winning class, 0..1. entropy: float16 [H, W] of all classes' probabilities, as
    `normalised_entropy` has it. Both are 0 where nothing was computed. x_m, y_m: the map's top
    left corner in model pixels. cell_m: side of a cell in model pixels.
    """

    codes: np.ndarray
    probability: np.ndarray
    entropy: np.ndarray
    x_m: int
    y_m: int
    cell_m: int

    @property
    def frame(self) -> MapFrame:
        """Return where the map lies."""
        return MapFrame(self.x_m, self.y_m, self.cell_m, *self.codes.shape)

    def rows(self, begin: int, end: int) -> ClassMap:
        """Return the band of rows `begin` to before `end`; it shares this map's memory."""
        band = slice(begin, end)
        cells = (self.codes[band], self.probability[band], self.entropy[band])
        return ClassMap(*cells, self.x_m, self.y_m + begin * self.cell_m, self.cell_m)


class Fuser:
    """Blends the tiles of one region, row of tiles by row of tiles, into bands of a class map.

    Scores are held for one row of tiles only, and the rows of the map that no later tile can
    touch only until they are taken. Within a row tiles may come in any order: they are summed
    from left to right, so the same tiles give the same map, bit for bit.
    """

    def __init__(self, plan: TilePlan, outline_m: BaseGeometry, class_count: int) -> None:
        if not 1 <= class_count < NODATA:
            raise TilingError(f"a class map holds 1 to {NODATA - 1} classes, not {class_count}")
        self._plan = plan
        self.frame = MapFrame.around(outline_m, plan.cell_m)
        margin = plan.margin_cells
        side = plan.tile_cells - 2 * margin
        self._window = blend_window(plan.tile_cells, margin)[margin:, margin:][:side, :side]
        self._scores = np.zeros((class_count, side, self.frame.width), np.float32)
        self._weight = np.zeros((side, self.frame.width), np.float32)
        self._top: int | None = None  # row of the map where the held scores begin
        self._y_m: int | None = None
        self._row: dict[int, np.ndarray] = {}
        self._bands: list[ClassMap] = []
        self._finished = 0  # rows of the map that are in bands, taken or not

    def add(self, tile: Tile, probabilities: np.ndarray) -> None:
        """Take in one tile's class probabilities, float32 [K, h, w] over its cells.

        Raises:
            TilingError: the tile belongs to an earlier row, or its scores have another shape.
        """
        expected = (len(self._scores), self._plan.tile_cells, self._plan.tile_cells)
        if probabilities.shape != expected:
            raise TilingError(
                f"the scores of a tile have shape {probabilities.shape}, expected {expected}"
            )
        if self._y_m is not None and tile.y_m < self._y_m:
            raise TilingError(f"tile {tuple(tile)} came after row {self._y_m}; sort tiles by y")
        if tile.y_m != self._y_m:
            self._finish_row()
            self._y_m = tile.y_m
        margin = self._plan.margin_cells
        inside = slice(margin, margin + len(self._window))
        self._row[tile.x_m] = probabilities[:, inside, inside].copy()

    def bands(self) -> list[ClassMap]:
        """Return the bands finished since last asked; one after another they make up the map."""
        finished, self._bands = self._bands, []
        return finished

    def last_bands(self) -> list[ClassMap]:
        """Return the bands not taken yet, to the map's last row; no more tiles may follow."""
        self._finish_row()
        self._emit(len(self._weight))
        self._skip_to(self.frame.height)
        return self.bands()

    def class_map(self) -> ClassMap:
        """Return the map of all tiles taken in; for who takes no bands. No more may follow."""
        return stacked(self.last_bands())

    def _finish_row(self) -> None:
        if self._y_m is None:
            return
        top = self._cells_from(self._y_m, self.frame.y_m)
        if self._top is not None:
            self._emit(min(top - self._top, len(self._weight)))
        self._top = top
        for x_m in sorted(self._row):
            self._blend(self._cells_from(x_m, self.frame.x_m), self._row[x_m])
        self._row.clear()

    def _cells_from(self, tile_start_m: int, map_start_m: int) -> int:
        return (tile_start_m + self._plan.margin_m - map_start_m) // self._plan.cell_m

    def _blend(self, left: int, probabilities: np.ndarray) -> None:
        """Add the inside of one tile whose first column is `left` of the map."""
        begin, end = max(left, 0), min(left + len(self._window), self._weight.shape[1])
        if begin >= end:
            return
        window = self._window[:, begin - left : end - left]
        self._scores[:, :, begin:end] += window * probabilities[:, :, begin - left : end - left]
        self._weight[:, begin:end] += window

    def _emit(self, count: int) -> None:
        """Make a band of the first `count` held rows and room for as many."""
        if self._top is None or count == 0:
            return
        begin, end = max(self._top, 0), min(self._top + count, self.frame.height)
        if begin < end:
            self._skip_to(begin)
            held = slice(begin - self._top, end - self._top)
            self._append(*_winners(self._scores[:, held], self._weight[held]))
        for held_rows in (self._scores, self._weight[None]):
            held_rows[:, :-count] = held_rows[:, count:]
            held_rows[:, -count:] = 0

    def _skip_to(self, row: int) -> None:
        """Append a band without data down to a row; it takes no memory."""
        if row > self._finished:
            shape = (row - self._finished, self.frame.width)
            nothing = (np.uint8(NODATA), np.float32(0), np.float16(0))
            self._append(*(np.broadcast_to(value, shape) for value in nothing))

    def _append(self, codes: np.ndarray, probability: np.ndarray, entropy: np.ndarray) -> None:
        cell_m = self.frame.cell_m
        y_m = self.frame.y_m + self._finished * cell_m
        self._bands.append(ClassMap(codes, probability, entropy, self.frame.x_m, y_m, cell_m))
        self._finished += len(codes)


def stacked(bands: Sequence[ClassMap]) -> ClassMap:
    """Return the map that bands, one below the other, make up."""
    first = bands[0]
    layers = [(b.codes, b.probability, b.entropy) for b in bands]
    codes, probability, entropy = map(np.concatenate, zip(*layers, strict=True))
    return ClassMap(codes, probability, entropy, first.x_m, first.y_m, first.cell_m)


def _winners(scores: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes, probability and entropy, each [h, W], of blended scores [K, h, W]."""
    seen = weight > 0
    probabilities = scores[:, seen]
    codes = np.full(weight.shape, NODATA, np.uint8)
    codes[seen] = probabilities.argmax(axis=0)
    probabilities /= weight[seen]
    probability = np.zeros(weight.shape, np.float32)
    probability[seen] = np.minimum(probabilities.max(axis=0), 1)  # rounding can exceed 1
    entropy = np.zeros(weight.shape, np.float16)
    entropy[seen] = normalised_entropy(probabilities)
    return codes, probability, entropy


def normalised_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy over classes in parts of the most there can be, float32 [...], 0..1.

    `probabilities` is float [K, ...], adding to 1 over K. 0 is sure of one class, 1 is all classes
    alike; dividing by log K, so that heads of few and many classes compare, is ours. A head of
    one class is always sure. Source: Shannon 1948.
    """
    entropy = np.zeros(probabilities.shape[1:], np.float32)
    for probability in probabilities:  # one by one: a second copy of all classes is not needed
        entropy -= xlogy(probability, probability)
    return (entropy / np.log(max(len(probabilities), 2))).clip(0, 1)


def blend_window(cells: int, margin_cells: int) -> np.ndarray:
    """Return a tile's weights, float32 [cells, cells]: 0 in the rim, a Hann window > 0 inside."""
    inside = cells - 2 * margin_cells
    hann = np.zeros(cells)
    # Sampled at the middle of each cell, so that the window's own zeros fall outside of it.
    phase = (np.arange(inside) + 0.5) / inside
    hann[margin_cells : margin_cells + inside] = np.sin(np.pi * phase) ** 2
    return np.outer(hann, hann).astype(np.float32)
