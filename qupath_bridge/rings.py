"""Pieces of borders -> polygons, each as soon as the strips have all of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from qupath_bridge.chains import beside, ranges, walked
from qupath_bridge.joined import JoinedObjects
from qupath_bridge.pieces import Pieces, cross, no_pieces
from qupath_bridge.rim import IdStrip


class Assembly:
    """Gathers the pieces of strips, from the top, until polygons are complete.

    What a strip costs depends on what it has, not on how many components the map has.
    """

    def __init__(self, objects: JoinedObjects) -> None:
        self._objects = objects
        count = objects.count + 1  # the last, -1, is outside
        self._done = np.zeros(count, bool)
        self._done[-1] = True
        self._goes_on = np.zeros(count, bool)  # below the strip at hand
        self._pieces = no_pieces()

    def add(self, strip: IdStrip, pieces: Pieces) -> tuple[np.ndarray, np.ndarray]:
        """Return the polygons that a strip completes, in half cells, and the object of each."""
        self._objects.join(strip.same)
        pieces = self._pieces.with_more(pieces)
        left, right = (self._objects.of(side) for side in (pieces.left, pieces.right))
        below = self._objects.of(np.unique(strip.ids[-1]))
        self._goes_on[below] = True
        of_side = np.concatenate([left, right])
        sides = _Sides.of(pieces, of_side, ~(self._done[of_side] | self._goes_on[of_side]))
        self._goes_on[below] = False
        self._done[sides.objects] = True
        self._pieces = pieces.taken(~(self._done[left] & self._done[right]))
        return _polygons(pieces, sides)


@dataclass(frozen=True)
class _Sides:
    """Pieces seen from one side, the object beside them on the left.

    objects, piece: int [S]. back: bool [S], whether the piece is gone along from its end.
    """

    objects: np.ndarray
    piece: np.ndarray
    back: np.ndarray

    @classmethod
    def of(cls, pieces: Pieces, of_side: np.ndarray, complete: np.ndarray) -> _Sides:
        """Return the sides whose object is complete, of all left sides, then all right sides."""
        chosen = np.flatnonzero(complete)
        back, piece = np.divmod(chosen, max(len(pieces.sizes), 1))
        return cls(of_side[chosen], piece, back.astype(bool))

    def following(self, pieces: Pieces) -> np.ndarray:
        """Return which side follows each around its object.

        Where an object meets itself across a corner, one goes on around what is between: so holes
        touch the outline in a point, and do not open into it.
        """
        first, last = pieces.begins[self.piece], (np.cumsum(pieces.sizes) - 1)[self.piece]
        last = np.where(pieces.closed[self.piece], first, last)
        ways = pieces.ways[self.piece]
        begin, end = np.where(self.back, last, first), np.where(self.back, first, last)
        way_out = np.where(self.back, ways[:, 1], ways[:, 0])
        way_in = np.where(self.back, ways[:, 0], ways[:, 1])
        leaving = self._order(pieces.points[begin], (way_out + 1) % 4)
        arriving = self._order(pieces.points[end], way_in)
        following = np.empty(len(self.piece), np.int64)
        following[arriving] = leaving
        return following

    def _order(self, points: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the order by object, place, and the quarter around it that lies on the right."""
        x, y = points.T.astype(np.int64)
        return np.lexsort((((y << 24) + x) * 4 + right, self.objects))


def _polygons(pieces: Pieces, sides: _Sides) -> tuple[np.ndarray, np.ndarray]:
    """Return what sides make up, by object, and the objects."""
    if not len(sides.piece):
        return np.empty(0, object), np.empty(0, np.int64)
    order, counts, _ = walked(sides.following(pieces))
    begins = np.cumsum(counts) - counts
    ring_object = sides.objects[order[begins]]
    points, is_first, counts = _ring_points(pieces, sides, order)
    sizes = np.add.reduceat(counts, begins)
    points, sizes = _without_straight_joints(points, is_first, sizes)
    hole = _areas(points, sizes) > 0  # an object on the left is gone around with y pointing down
    ring_order = np.lexsort((hole, ring_object))
    ends = np.cumsum(sizes)
    index, _ = ranges((ends - sizes)[ring_order], ends[ring_order])
    objects, ring_counts = np.unique(ring_object, return_counts=True)
    return _shapes(points[index], sizes[ring_order], ring_counts), objects


def _ring_points(
    pieces: Pieces, sides: _Sides, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the points of sides in order, which of them begin a side, and how many each has.

    Its last point is the next one's first and left out.
    """
    piece, back = sides.piece[order], sides.back[order]
    count = pieces.sizes[piece] - ~pieces.closed[piece]
    begin = pieces.begins[piece]
    place, side = ranges(np.zeros_like(count), count)
    last = begin + pieces.sizes[piece] - 1
    index = np.where(back[side], last[side] - place, begin[side] + place)
    return pieces.points[index], place == 0, count


def _without_straight_joints(
    points: np.ndarray, begins_side: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return rings without points on the lines between strips at which they do not turn."""
    before, after = beside(sizes)
    x, y = points.T
    joint = np.flatnonzero(begins_side & (y % 2 == 1) & (x % 2 == 0))
    straight = cross(points[before[joint]], points[joint], points[after[joint]]) == 0
    kept = np.ones(len(points), bool)
    kept[joint[straight]] = False
    return points[kept], np.add.reduceat(kept.astype(np.int64), np.cumsum(sizes) - sizes)


def _areas(points: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return twice the signed areas of rings."""
    (x, y), (next_x, next_y) = (p.T.astype(np.int64) for p in (points, points[beside(sizes)[1]]))
    return np.add.reduceat(x * next_y - next_x * y, np.cumsum(sizes) - sizes)


def _shapes(points: np.ndarray, sizes: np.ndarray, ring_counts: np.ndarray) -> np.ndarray:
    """Return rings, outlines before their holes, as shapely polygons in their normal form."""
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    closed = np.insert(points, offsets[1:], points[offsets[:-1]], axis=0).astype(np.float64)
    ring_offsets = offsets + np.arange(len(offsets))
    polygon_offsets = np.concatenate([[0], np.cumsum(ring_counts)])
    shapes = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, closed, (ring_offsets, polygon_offsets)
    )
    return shapely.normalize(shapes)
