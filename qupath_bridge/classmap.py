"""The class map of a region, whole or in bands, and where it lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from shapely.geometry.base import BaseGeometry

NODATA = 255
COLLAR = 2  # cells around a region's bounds, so that no outline ends at the map's edge
STEPS = 65535  # of probability and entropy: whole numbers add up alike in any order


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

    codes: uint8 [H, W], `NODATA` where nothing was computed. probability: uint16 [H, W] of the
    winning class. entropy: uint16 [H, W] of all classes' probabilities, as `normalised_entropy`
    has it. Both are in steps of 1/65535, and 0 where nothing was computed. x_m, y_m: the map's top
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


def stacked(bands: Sequence[ClassMap]) -> ClassMap:
    """Return the map that bands, one below the other, make up."""
    first = bands[0]
    layers = [(b.codes, b.probability, b.entropy) for b in bands]
    codes, probability, entropy = map(np.concatenate, zip(*layers, strict=True))
    return ClassMap(codes, probability, entropy, first.x_m, first.y_m, first.cell_m)


def no_cells(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes, probability and entropy where nothing was computed; they take no memory."""
    codes = np.broadcast_to(np.uint8(NODATA), shape)
    never = np.broadcast_to(np.uint16(0), shape)
    return codes, never, never
