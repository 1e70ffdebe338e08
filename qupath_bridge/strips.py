"""Bands of a class map, of any height -> strips of one height; which cells of them a region has.

A strip's height follows from the map's width alone, so what is done strip by strip does not depend
on how the map comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import rasterio
import rasterio.features
from shapely.geometry.base import BaseGeometry

from qupath_bridge.classmap import NODATA, ClassMap, MapFrame
from qupath_bridge.clipping import near_rows

REACH = 4  # steps over cell sides from a cell in the region to the farthest that must have a class
STRIP_CELLS, STRIP_ROWS = 2**21, 1024
"""At most, of a strip; the rows bound what many narrow regions side by side hold."""


def strip_rows(width: int) -> int:
    """Return how many rows a strip of a map has."""
    return max(min(STRIP_CELLS // width, STRIP_ROWS), 2 * REACH)


def framed(frame: MapFrame) -> MapFrame:
    """Return a frame that is one cell wider on each side."""
    cell = frame.cell_m
    wider = replace(frame, x_m=frame.x_m - cell, y_m=frame.y_m - cell)
    return replace(wider, height=frame.height + 2, width=frame.width + 2)


@dataclass
class Strip:
    """Rows of a map from row `top` on. codes: uint8 [h, W]. measured: uint16 [2, h, W].

    What is measured are probability and entropy. The map is framed by cells without data.
    """

    top: int
    codes: np.ndarray
    measured: np.ndarray

    @classmethod
    def empty(cls, top: int, rows: int, width: int) -> Strip:
        """Return a strip without data."""
        codes = np.full((rows, width), NODATA, np.uint8)
        return cls(top, codes, np.zeros((2, rows, width), np.uint16))


class StripBuffer:
    """Gathers bands, from the top, until a strip is full."""

    def __init__(self, frame: MapFrame, rows: int) -> None:
        self._frame, self._rows = framed(frame), rows
        self._strip = Strip.empty(0, min(rows, self._frame.height), self._frame.width)
        self._next_row = 1  # of the framed map

    def add(self, band: ClassMap) -> Iterator[Strip]:
        """Yield the strips that a band fills; the last ends with the map's last row."""
        begin = 0
        while begin < len(band.codes):
            room = self._strip.top + len(self._strip.codes) - self._next_row
            part = band.rows(begin, begin + room)
            self._copy(part)
            begin += len(part.codes)
            self._next_row += len(part.codes)
            if self._next_row + 1 == self._frame.height:
                self._next_row += 1  # the frame's last row, which no band has
            while self._strip.top + len(self._strip.codes) <= self._next_row:
                yield self._strip
                if not self._renew():
                    return

    def _copy(self, band: ClassMap) -> None:
        begin = self._next_row - self._strip.top
        rows, columns = slice(begin, begin + len(band.codes)), slice(1, -1)
        if not (band.codes != NODATA).any():
            return
        self._strip.codes[rows, columns] = band.codes
        self._strip.measured[0, rows, columns] = band.probability
        self._strip.measured[1, rows, columns] = band.entropy

    def _renew(self) -> bool:
        """Begin the next strip; return whether there is one."""
        top = self._strip.top + len(self._strip.codes)
        rows = min(self._rows, self._frame.height - top)
        self._strip = Strip.empty(top, rows, self._frame.width)
        return rows > 0


def region_cells(
    outline_m: BaseGeometry, frame: MapFrame, top: int, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return which cells of a strip have a say, and which need a class, bool [h, W] each.

    Those with their middle in the region, and where the region is too thin to have such, those
    it touches. A class is needed by all that it touches and those beside them.
    """
    y0, y1 = (frame.y_m + (row * frame.cell_m) for row in (top - 3, top + rows + 3))
    near_m = near_rows(outline_m, y0, y1)
    middle_in = _burnt(near_m, frame, top - 2, rows + 4, all_touched=False)
    touched = middle_in | _burnt(near_m, frame, top - 2, rows + 4, all_touched=True)
    apart = touched & ~_grown(middle_in)
    return (middle_in | apart)[2:-2], _grown(touched)[2:-2]


def _grown(cells: np.ndarray) -> np.ndarray:
    """Return cells and all that touch them, across corners too, bool [H, W]."""
    rows = cells.copy()
    rows[1:] |= cells[:-1]
    rows[:-1] |= cells[1:]
    grown = rows.copy()
    grown[:, 1:] |= rows[:, :-1]
    grown[:, :-1] |= rows[:, 1:]
    return grown


def _burnt(
    outline_m: BaseGeometry, frame: MapFrame, top: int, rows: int, all_touched: bool
) -> np.ndarray:
    """Return which cells have their middle in an outline, or touch it, bool [h, W]."""
    if outline_m.is_empty:
        return np.zeros((rows, frame.width), bool)
    cell = frame.cell_m
    burnt = rasterio.features.rasterize(
        [outline_m],
        out_shape=(rows, frame.width),
        transform=rasterio.Affine(cell, 0, frame.x_m, 0, cell, frame.y_m + top * cell),
        all_touched=all_touched,
        dtype=np.uint8,
    )
    return burnt.view(bool)
