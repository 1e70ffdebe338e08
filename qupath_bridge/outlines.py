"""Cells -> outlines that share their borders.

Borders between two classes run through the middles of cell edges, which turns the staircase of a
slanted border into a straight line without taking area from either side. Corners where more than
two pieces meet stay where they are, and so do borders with `NODATA`. Both sides of a border get
the very same points: together the outlines are a coverage, without gaps or overlaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
import rasterio.features
import shapely

from qupath_bridge.fusion import NODATA


@dataclass(frozen=True)
class Rings:
    """Closed rings of polygons, without repeating the first point.

    points: float64 [N, 2], in cells. sizes: int64 [R], points per ring. ring_counts: int64 [P].
    """

    points: np.ndarray
    sizes: np.ndarray
    ring_counts: np.ndarray

    def following(self, values: np.ndarray) -> np.ndarray:
        """Return for each point the value of the next point of its ring."""
        ends = np.cumsum(self.sizes) - 1
        moved = np.roll(values, -1, axis=0)
        moved[ends] = values[ends - self.sizes + 1]
        return moved

    def preceding(self, values: np.ndarray) -> np.ndarray:
        """Return for each point the value of the point of its ring before it."""
        ends = np.cumsum(self.sizes) - 1
        moved = np.roll(values, 1, axis=0)
        moved[ends - self.sizes + 1] = values[ends]
        return moved

    def keeping(self, points: np.ndarray, kept: np.ndarray) -> Rings:
        """Return rings of the kept ones of `points` [N, k, 2], each point giving way to k."""
        begins = np.cumsum(self.sizes) - self.sizes
        sizes = np.add.reduceat(kept.reshape(len(kept), -1).sum(axis=1), begins)
        return Rings(points[kept], sizes, self.ring_counts)


def outline_cells(codes: np.ndarray, tolerance_cells: float) -> tuple[np.ndarray, np.ndarray]:
    """Return one polygon per connected component, in cells, and the class of each, uint8.

    Components are 4-connected; `NODATA` has none. Borders between them are simplified together,
    giving up corners whose triangle is smaller than the square of the tolerance.
    """
    if not (codes != NODATA).any():
        return np.empty(0, object), np.empty(0, np.uint8)
    rings, polygon_codes = _traced(codes)
    polygons = _polygons(_smoothed(rings, codes))
    if tolerance_cells > 0:
        polygons = shapely.coverage_simplify(polygons, tolerance_cells, simplify_boundary=False)
    return polygons, polygon_codes


def _traced(codes: np.ndarray) -> tuple[Rings, np.ndarray]:
    """Return the outlines of components along cell edges, and the class of each component."""
    found = rasterio.features.shapes(codes, mask=codes != NODATA, connectivity=4)
    outlines, values = zip(*((shape["coordinates"], value) for shape, value in found), strict=True)
    rings = [ring[:-1] for outline in outlines for ring in outline]
    sizes = np.array([len(ring) for ring in rings])
    numbers = chain.from_iterable(chain.from_iterable(rings))
    points = np.fromiter(numbers, np.float64, 2 * sizes.sum()).reshape(-1, 2)
    ring_counts = np.array([len(outline) for outline in outlines])
    return Rings(points, sizes, ring_counts), np.array(values).astype(np.uint8)


def _smoothed(rings: Rings, codes: np.ndarray) -> Rings:
    """Return rings along cell edges with borders of two classes led through edge middles."""
    steps = _single_steps(rings)
    is_node, is_outer = _kinds_of_corners(steps.points.astype(np.int64), codes)
    stays = is_node | is_outer
    middles = (steps.points + steps.following(steps.points)) / 2
    points = np.stack([steps.points, middles], axis=1)
    kept = np.stack([stays, ~(stays & steps.following(stays))], axis=1)
    is_node = np.stack([is_node, np.zeros_like(is_node)], axis=1)[kept]
    return _without_straight_points(steps.keeping(points, kept), is_node)


def _single_steps(rings: Rings) -> Rings:
    """Return rings with a point at every cell corner they pass."""
    step = rings.following(rings.points) - rings.points
    counts = np.abs(step).sum(axis=1).astype(np.int64)
    direction = np.repeat(np.sign(step), counts, axis=0)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    points = np.repeat(rings.points, counts, axis=0) + place[:, None] * direction
    begins = np.cumsum(rings.sizes) - rings.sizes
    return Rings(points, np.add.reduceat(counts, begins), rings.ring_counts)


def _kinds_of_corners(corners: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which corners more than two borders reach, and which lie beside `NODATA`."""
    padded = np.pad(codes, 1, constant_values=NODATA)
    x, y = corners.T
    around = (padded[y, x], padded[y, x + 1], padded[y + 1, x + 1], padded[y + 1, x])
    changes = sum(
        (a != b).astype(np.uint8) for a, b in zip(around, (*around[1:], around[0]), strict=True)
    )
    return changes > 2, np.logical_or.reduce([cell == NODATA for cell in around])


def _without_straight_points(rings: Rings, is_node: np.ndarray) -> Rings:
    """Return rings without points at which they do not turn, nodes excepted.

    A node on one polygon's straight side is a corner of another: both need it.
    """
    arriving = rings.points - rings.preceding(rings.points)
    leaving = rings.following(rings.points) - rings.points
    turns = arriving[:, 0] * leaving[:, 1] != arriving[:, 1] * leaving[:, 0]
    return rings.keeping(rings.points, turns | is_node)


def _polygons(rings: Rings) -> np.ndarray:
    """Return rings as shapely polygons."""
    offsets = np.concatenate([[0], np.cumsum(rings.sizes)])
    begins = offsets[:-1]
    closed = np.insert(rings.points, offsets[1:], rings.points[begins], axis=0)
    ring_offsets = offsets + np.arange(len(offsets))
    polygon_offsets = np.concatenate([[0], np.cumsum(rings.ring_counts)])
    return shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, closed, (ring_offsets, polygon_offsets)
    )
