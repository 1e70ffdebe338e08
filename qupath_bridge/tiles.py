"""Where tiles lie: one lattice per slide, whatever the region.

Along each axis tiles begin at whole multiples of the stride, counted from the slide's origin, so
overlapping regions see the very same tiles and thus the very same scores. The rim of a tile, where
a network sees padding, is not used; the inside of a tile is what is left of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from qupath_bridge.errors import TilingError


class Tile(NamedTuple):
    """The top left corner of a tile in model pixels; it may lie outside of the slide."""

    x_m: int
    y_m: int


@dataclass(frozen=True)
class TilePlan:
    """Sides of tiles and of what lies in them, all in model pixels.

    tile_m: side of a tile. stride_m: from one tile to the next. margin_m: width of the unused
    rim. cell_m: side of a cell, for which the model gives one score per class.

    Raises:
        TilingError: they leave gaps between the insides of tiles, or are not whole cells.
    """

    tile_m: int = 256
    stride_m: int = 128
    margin_m: int = 16
    cell_m: int = 2

    def __post_init__(self) -> None:
        sides = (self.tile_m, self.stride_m, self.margin_m)
        if self.cell_m < 1 or any(side % self.cell_m for side in sides):
            raise TilingError(
                f"tile {self.tile_m}, stride {self.stride_m} and margin {self.margin_m} px must be"
                f" whole cells of {self.cell_m} px; choose multiples of it"
            )
        if self.margin_m < 0 or self.stride_m < 1 or self.stride_m > self.inside_m:
            raise TilingError(
                f"tiles of {self.tile_m} px, {self.margin_m} px of each side unused, leave gaps at"
                f" a stride of {self.stride_m} px; choose 1 <= stride <= {self.inside_m} px"
            )

    @property
    def inside_m(self) -> int:
        """Return the side of a tile's inside."""
        return self.tile_m - 2 * self.margin_m

    @property
    def tile_cells(self) -> int:
        """Return how many cells lie along a side of a tile."""
        return self.tile_m // self.cell_m

    @property
    def margin_cells(self) -> int:
        """Return how many cells wide the unused rim is."""
        return self.margin_m // self.cell_m


def tiles_of(outline_m: BaseGeometry, plan: TilePlan) -> list[Tile]:
    """Return the tiles whose inside shares area with an outline, row by row from the top left."""
    if outline_m.is_empty:
        return []
    was_prepared = shapely.is_prepared(outline_m)
    shapely.prepare(outline_m)
    x0, y0, x1, y1 = outline_m.bounds
    xs, ys = _starts(x0, x1, plan), _starts(y0, y1, plan)
    # Numbers that tiles share: a slide has a hundred thousand of them.
    numbers = xs.tolist()
    found = [
        Tile(numbers[place], y) for y in ys.tolist() for place in _shared(outline_m, xs, y, plan)
    ]
    if not was_prepared:
        shapely.destroy_prepared(outline_m)  # it takes more memory than the outline
    return found


def _starts(low_m: float, high_m: float, plan: TilePlan) -> np.ndarray:
    """Return where those tiles begin, int64, whose inside shares length with an interval."""
    first = math.floor((low_m - plan.tile_m + plan.margin_m) / plan.stride_m) + 1
    end = math.ceil((high_m - plan.margin_m) / plan.stride_m)
    return np.arange(first, end, dtype=np.int64) * plan.stride_m


def _shared(outline_m: BaseGeometry, xs: np.ndarray, y: int, plan: TilePlan) -> list[int]:
    """Return the places among `xs` of the tiles of a row whose inside shares area."""
    left, top = xs + plan.margin_m, y + plan.margin_m
    insides = shapely.box(left, top, left + plan.inside_m, top + plan.inside_m)
    shared = shapely.intersects(outline_m, insides)
    shared[shared] = ~shapely.touches(outline_m, insides[shared])
    return np.flatnonzero(shared).tolist()
