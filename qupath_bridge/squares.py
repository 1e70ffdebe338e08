"""Candidate squares of one image: on tissue, on a lattice, drawn at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from qupath_bridge.geometry import Mpp, Scale
from qupath_bridge.tiles import Tile

LEAST_TISSUE = 0.5
"""A square's share of tissue, at least."""


def draw_squares(
    tissue_l0: BaseGeometry,
    taken_l0: Sequence[BaseGeometry],
    lattice: np.ndarray,
    count: int,
    rng: np.random.Generator,
) -> list[Polygon]:
    """Return up to `count` squares of a lattice, drawn at random.

    Their middles and at least half of them are tissue, and none has a part of what is taken.
    """
    shapely.prepare(tissue_l0)
    middles = shapely.get_coordinates(shapely.centroid(lattice))
    possible = shapely.contains_xy(tissue_l0, middles) if len(lattice) else np.empty(0, bool)
    possible[_touching(lattice, taken_l0)] = False
    found: list[Polygon] = []
    for square in rng.permutation(lattice[possible]):
        if len(found) == count:
            break
        if shapely.area(shapely.intersection(tissue_l0, square)) >= LEAST_TISSUE * square.area:
            found.append(square)
    return found


def lattice_of(size_l0: tuple[int, int], size_um: float, mpp: Mpp) -> np.ndarray:
    """Return the disjoint squares of so many um that an image holds, polygons [N], row by row.

    Their corners are on whole level-0 pixels; what is left over is halved between the sides.
    """
    sides = [max(1, round(size_um / um)) for um in mpp]
    counts = [length // side for length, side in zip(size_l0, sides, strict=True)]
    starts = [
        (length - number * side) // 2 + side * np.arange(number)
        for length, side, number in zip(size_l0, sides, counts, strict=True)
    ]
    y, x = (grid.ravel() for grid in np.meshgrid(starts[1], starts[0], indexing="ij"))
    squares: np.ndarray = shapely.box(x, y, x + sides[0], y + sides[1])
    return squares


def tile_in(square_l0: BaseGeometry, scale: Scale, tile_m: int, step_m: int) -> Tile:
    """Return the tile in the middle of a square, its corner on whole steps."""
    middle_m = scale.to_m(square_l0).centroid
    x, y = (round((along - tile_m / 2) / step_m) * step_m for along in (middle_m.x, middle_m.y))
    return Tile(x, y)


def _touching(lattice: np.ndarray, taken_l0: Sequence[BaseGeometry]) -> np.ndarray:
    """Return the indices of squares that have a part of something taken; an edge is none."""
    shapes = shapely.make_valid(np.array(taken_l0, dtype=object))
    inside = shapely.buffer(lattice, -0.5, join_style="mitre")
    touching: np.ndarray = shapely.STRtree(inside).query(shapes, predicate="intersects")[1]
    return touching
