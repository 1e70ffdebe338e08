"""Polygons cut to a region, whose outline may have very many corners."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from qupath_bridge.geometry import is_box

SLIVER = 1e-5  # of the region's area
FEW_POLYGONS, FEW_CORNERS = 8, 256
MARGIN = 0.5  # of a group's extent, around it


def clipped(
    polygons: np.ndarray, outline: BaseGeometry, min_area: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the connected parts of polygons in an outline, and the index of each one's polygon.

    Cut-off parts below `min_area`, or below `SLIVER` of the region if that is less, are left out.
    """
    inside = _inside(polygons, outline)
    crossing = np.flatnonzero(~inside)
    parts, index = shapely.get_parts(_cut(polygons[crossing], outline), return_index=True)
    kept = shapely.area(parts) > min(min_area, SLIVER * outline.area)
    return (
        np.concatenate([polygons[inside], parts[kept]]),
        np.concatenate([np.flatnonzero(inside), crossing[index[kept]]]),
    )


def _inside(polygons: np.ndarray, outline: BaseGeometry) -> np.ndarray:
    """Return which polygons need no cutting; some that only touch an outline from inside may."""
    if shapely.get_num_coordinates(outline) == 5 and is_box(outline):
        x0, y0, x1, y1 = outline.bounds
        left, top, right, bottom = shapely.bounds(polygons).T
        return (left >= x0) & (top >= y0) & (right <= x1) & (bottom <= y1)
    shapely.prepare(outline)
    return shapely.contains_properly(outline, polygons)


def _cut(polygons: np.ndarray, outline: BaseGeometry) -> np.ndarray:
    """Return what of each polygon is in an outline, as `shapely.intersection` does.

    That looks at all corners of the outline for each polygon; here only at those that are near, so
    points where outlines meet may differ in the last bits.
    """
    cut = np.empty(len(polygons), object)
    for index, near in _groups(shapely.bounds(polygons), np.arange(len(polygons)), outline):
        cut[index] = shapely.intersection(polygons[index], near)
    return cut


def _groups(
    boxes: np.ndarray, index: np.ndarray, outline: BaseGeometry
) -> Iterator[tuple[np.ndarray, BaseGeometry]]:
    """Yield groups of boxes that are near one another, with what the outline is there."""
    if len(index) <= FEW_POLYGONS or shapely.get_num_coordinates(outline) <= FEW_CORNERS:
        yield index, outline
        return
    x0, y0, x1, y1 = boxes[index].T
    middles = np.stack([x0 + x1, y0 + y1])
    axis = int(np.ptp(middles, axis=1).argmax())
    order = np.argsort(middles[axis], kind="stable")
    for half in np.array_split(index[order], 2):
        low, high = boxes[half, :2].min(axis=0), boxes[half, 2:].max(axis=0)
        around = MARGIN * (high - low).max()
        box = shapely.box(*(low - around), *(high + around))
        yield from _groups(boxes, half, shapely.intersection(outline, box))


def near_rows(outline: BaseGeometry, top: float, bottom: float) -> BaseGeometry:
    """Return an outline with fewer corners that has the same cells in a strip, to the last one.

    Of corners that follow one another above or below the strip the first and the last stay: all
    sides that meet the strip are as they were. Beyond it the outline may cross itself, where it
    is inside by the even-odd rule.
    """
    shells = [_near(part, top, bottom) for part in shapely.get_parts(outline)]
    return shapely.MultiPolygon([part for part in shells if part is not None])


def _near(part: BaseGeometry, top: float, bottom: float) -> BaseGeometry | None:
    rings = (shapely.get_coordinates(ring) for ring in shapely.get_rings(part))
    shell, *holes = (_near_ring(corners, top, bottom) for corners in rings)
    if shell is None:
        return None
    return shapely.Polygon(shell, [hole for hole in holes if hole is not None])


def _near_ring(corners: np.ndarray, top: float, bottom: float) -> np.ndarray | None:
    """Return a closed ring [N, 2] without corners that do not matter; None if none does."""
    for is_beyond in (lambda y: y < top, lambda y: y > bottom):
        beyond = is_beyond(corners[:, 1])
        if beyond.all():
            return None
        kept = np.ones(len(corners), bool)
        kept[1:-1] = ~(beyond[:-2] & beyond[1:-1] & beyond[2:])
        corners = corners[kept]
    return corners
