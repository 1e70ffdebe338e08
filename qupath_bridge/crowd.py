"""Which triangles at corners of outlines have other outlines' points in them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from qupath_bridge.chains import ranges
from qupath_bridge.pieces import Pieces, cross

AT_ONCE = 2**21  # pairs of a triangle and a point near it
BITS = 2  # points are counted in squares of 4 x 4 half cells: finer ones cost more than they spare


class Crowd:
    """All points of a strip's pieces, looked up by place.

    A triangle's corners are points of one piece. Points that the piece has between them do not
    count, nor does any that lies where the triangle's first or last corner does.
    """

    def __init__(self, pieces: Pieces) -> None:
        self._points = pieces.points
        self._begin = np.repeat(pieces.begins, pieces.sizes)
        self._size = np.repeat(pieces.sizes, pieces.sizes)
        # The box around each point and what its piece gave up before the next that is left.
        self._box = np.concatenate([self._points, self._points], axis=1)  # x, y low, x, y high
        self._corner = self._points.min(axis=0)
        self._stride = int(self._points[:, 0].max() - self._corner[0]) + 1
        x, y = (self._points - self._corner).T.astype(np.int64)
        self._keys, self._index = np.unique(y * self._stride + x, return_index=True)
        self._counts = _count_to((self._points[self._index] - self._corner) >> BITS)

    def forget(self, before: np.ndarray, gone: np.ndarray) -> None:
        """Note that points were given up; `before` are those left before each."""
        self._box[before] = _joint_box(self._box[before], self._box[gone])

    def any_in(self, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Return which triangles, borders included, have a point in them that counts."""
        box = _joint_box(_joint_box(self._box[a], self._box[b]), self._points[c][:, [0, 1, 0, 1]])
        near = self._near(box)
        doubtful = np.flatnonzero(near > (c - a) % self._size[a] + 1)
        inside = np.zeros(len(a), bool)
        pairs = np.cumsum(near[doubtful] + box[doubtful, 3] - box[doubtful, 1])
        cuts = np.arange(AT_ONCE, pairs[-1], AT_ONCE) if len(pairs) else ()
        for part in np.split(doubtful, np.searchsorted(pairs, cuts)):
            inside[part] = self._any_in(a[part], b[part], c[part])
        return inside

    def _near(self, box: np.ndarray) -> np.ndarray:
        """Return how many points lie in the squares that boxes touch."""
        corner = np.tile(self._corner, 2)
        x0, y0, x1, y1 = ((box - corner) >> BITS).T
        counts = self._counts
        upper = counts[y1 + 1, x1 + 1] - counts[y0, x1 + 1]
        return upper - counts[y1 + 1, x0] + counts[y0, x0]

    def _any_in(self, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        triangle, point = self._pairs(np.stack([self._points[i] for i in (a, b, c)]))
        first, last = a[triangle], c[triangle]
        counts = (point - first) % self._size[first] > (last - first) % self._size[first]
        counts |= self._begin[point] != self._begin[first]
        for end in (first, last):
            counts &= (self._points[point] != self._points[end]).any(axis=1)
        triangle, point = triangle[counts], point[counts]
        corners = [self._points[i[triangle]] for i in (a, b, c, a)]
        places = self._points[point]
        turns = [cross(p, q, places) for p, q in pairwise(corners)]
        within = (np.min(turns, axis=0) >= 0) | (np.max(turns, axis=0) <= 0)
        return np.bincount(triangle[within], minlength=len(a)) > 0

    def _pairs(self, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each pair of a triangle [3, N, 2] and a point in the box around it."""
        low, high = triangles.min(axis=0) - self._corner, triangles.max(axis=0) - self._corner
        row, triangle = ranges(low[:, 1], high[:, 1] + 1)
        row_key = row.astype(np.int64) * self._stride
        begin = np.searchsorted(self._keys, row_key + low[triangle, 0])
        end = np.searchsorted(self._keys, row_key + high[triangle, 0], side="right")
        place, which = ranges(begin, end)
        return triangle[which], self._index[place]


def _joint_box(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the boxes around two boxes each, [N, 4]."""
    low, high = np.minimum(one[:, :2], other[:, :2]), np.maximum(one[:, 2:], other[:, 2:])
    return np.concatenate([low, high], axis=1)


def _count_to(squares: np.ndarray) -> np.ndarray:
    """Return how many of some squares [N, 2] lie above and left of each corner, int32 [h, w]."""
    width, height = squares.max(axis=0) + 1
    flat = squares[:, 1].astype(np.int64) * width + squares[:, 0]
    counts = np.zeros((height + 1, width + 1), np.int32)
    counts[1:, 1:] = np.bincount(flat, minlength=width * height).reshape(height, width)
    np.cumsum(counts, axis=0, out=counts)
    return np.cumsum(counts, axis=1, out=counts)
