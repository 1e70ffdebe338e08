"""Pieces of borders between components: what a strip of cells has of them.

All coordinates are in half cells, whole numbers, of the framed map: corners of cells are even, the
middles of their sides odd in one of the two. A strip's pieces end at nodes, where more than two
borders meet, and at the lines through the middles of rows of cells that part one strip from the
next. Between them they are led through the middles of cell sides; along the edge of the data they
are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qupath_bridge.chains import beside, walked
from qupath_bridge.rim import IdStrip

EAST, SOUTH, WEST, NORTH = range(4)
STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.int32)  # x, y
UP, DOWN, LEFT, RIGHT = 1, 2, 4, 8  # borders that a corner has
KIND = np.array([bin(borders).count("1") for borders in range(16)])
IS_NODE = KIND > 2
IS_TURN = np.array([b in (UP | LEFT, UP | RIGHT, DOWN | LEFT, DOWN | RIGHT) for b in range(16)])
IS_CORNER = IS_NODE | IS_TURN


@dataclass(frozen=True)
class Pieces:
    """Pieces of borders, each from its first point to its last.

    points: int32 [N, 2], x and y. sizes: int64 [P]. left, right: int32 [P], the components beside
    it, -1 outside; left as one sees it going along, y pointing down. ways: int8 [P, 2], in which
    of the four directions it lies from its first point and from its last. loose: bool [P], whether
    it may be simplified. closed: bool [P], a ring without nodes, whose first point is not repeated.
    """

    points: np.ndarray
    sizes: np.ndarray
    left: np.ndarray
    right: np.ndarray
    ways: np.ndarray
    loose: np.ndarray
    closed: np.ndarray

    @property
    def begins(self) -> np.ndarray:
        """Return the index of each piece's first point."""
        return np.cumsum(self.sizes) - self.sizes

    def points_kept(self, kept: np.ndarray, points: np.ndarray | None = None) -> Pieces:
        """Return the pieces with some points only; `points` [N, k, 2] gives k for each."""
        counts = kept.reshape(len(kept), -1).sum(axis=1)
        sizes = np.add.reduceat(counts, self.begins) if len(counts) else self.sizes
        points = self.points if points is None else points
        return Pieces(
            points[kept], sizes, self.left, self.right, self.ways, self.loose, self.closed
        )

    def taken(self, chosen: np.ndarray) -> Pieces:
        """Return some of the pieces, bool [P]."""
        points = self.points[np.repeat(chosen, self.sizes)]
        others = (self.sizes, self.left, self.right, self.ways, self.loose, self.closed)
        return Pieces(points, *(values[chosen] for values in others))

    def with_more(self, other: Pieces) -> Pieces:
        """Return these pieces and others."""
        mine, others = vars(self).values(), vars(other).values()
        return Pieces(*(np.concatenate(pair) for pair in zip(mine, others, strict=True)))


def no_pieces() -> Pieces:
    """Return none."""
    nothing = np.empty(0, np.int32)
    return Pieces(
        np.empty((0, 2), np.int32),
        np.empty(0, np.int64),
        nothing,
        nothing,
        np.empty((0, 2), np.int8),
        np.empty(0, bool),
        np.empty(0, bool),
    )


@dataclass(frozen=True)
class _Corners:
    """Where borders turn, meet or leave the strip: row by row, as whole numbers.

    column, row: of the cell north-west of the corner; row -1 and the last are those of the lines
    to the strips above and below. borders: which it has, as bits. y: in half cells.
    """

    column: np.ndarray
    row: np.ndarray
    borders: np.ndarray
    y: np.ndarray

    @property
    def are_on_lines(self) -> np.ndarray:
        """Return which are where a border leaves the strip."""
        return self.y % 2 == 1

    @property
    def are_ends(self) -> np.ndarray:
        """Return which end a piece."""
        return IS_NODE[self.borders] | self.are_on_lines

    @property
    def points(self) -> np.ndarray:
        return np.stack([2 * self.column + 2, self.y], axis=1).astype(np.int32)


@dataclass(frozen=True)
class _Sides:
    """Straight stretches of borders between corners, the lower class on their left."""

    origin: np.ndarray
    target: np.ndarray
    way: np.ndarray


def pieces_of(strip: IdStrip, codes: np.ndarray) -> Pieces:
    """Return the pieces of a strip's borders, smooth.

    codes: uint8 [M + 1], of components; the last, of -1, is `NODATA`.
    """
    cells = codes.take(strip.ids)
    corners = _corners(cells, strip.top)
    if not len(corners.row):
        return no_pieces()
    sides = _sides(corners, cells)
    order, sizes, closed = walked(_following(sides, corners))
    sides = _Sides(sides.origin[order], sides.target[order], sides.way[order])
    return _straightened(_smoothed(sides, sizes, closed, corners, strip.ids))


def _corners(cells: np.ndarray, top: int) -> _Corners:
    vertical = cells[:, 1:] != cells[:, :-1]
    horizontal = cells[1:] != cells[:-1]
    borders = vertical[:-1].view(np.uint8) * np.uint8(UP)
    borders |= vertical[1:].view(np.uint8) * np.uint8(DOWN)
    borders |= horizontal[:, :-1].view(np.uint8) * np.uint8(LEFT)
    borders |= horizontal[:, 1:].view(np.uint8) * np.uint8(RIGHT)
    place = np.flatnonzero(IS_CORNER.take(borders))
    row, column = np.divmod(place, borders.shape[1])
    rows = len(borders)
    entering, leaving = np.flatnonzero(vertical[0]), np.flatnonzero(vertical[-1])
    return _Corners(
        np.concatenate([entering, column, leaving]),
        np.concatenate([np.full(len(entering), -1), row, np.full(len(leaving), rows)]),
        np.concatenate(
            [
                np.full(len(entering), DOWN, np.uint8),
                borders.ravel()[place],
                np.full(len(leaving), UP, np.uint8),
            ]
        ),
        2 * top
        + np.concatenate(
            [np.full(len(entering), -1), 2 * row, np.full(len(leaving), 2 * rows - 1)]
        ),
    )


def _sides(corners: _Corners, cells: np.ndarray) -> _Sides:
    """Return the stretches, each from the corner to the next of its row or column."""
    column = corners.column
    west = np.flatnonzero(corners.borders & RIGHT)
    eastward = _cells_at(cells, corners, west, 0, 1) < _cells_at(cells, corners, west, 1, 1)
    narrow = column.astype(np.uint16 if cells.shape[1] < 2**16 else np.int32)
    by_column = np.argsort(narrow, kind="stable")  # rows stay in order; two bytes sort fast
    place = np.flatnonzero(corners.borders[by_column] & DOWN)
    north, south = by_column[place], by_column[place + 1]
    southward = _cells_at(cells, corners, north, 1, 1) < _cells_at(cells, corners, north, 1, 0)
    ahead = np.concatenate([eastward, southward])
    one, other = np.concatenate([west, north]), np.concatenate([west + 1, south])
    way = np.where(eastward, EAST, WEST), np.where(southward, SOUTH, NORTH)
    return _Sides(
        np.where(ahead, one, other),
        np.where(ahead, other, one),
        np.concatenate(way).astype(np.int8),
    )


def _cells_at(
    cells: np.ndarray, corners: _Corners, which: np.ndarray, south: int, east: int
) -> np.ndarray:
    """Return the values of one of the four cells around some corners."""
    return cells[corners.row[which] + south, corners.column[which] + east]


def _following(sides: _Sides, corners: _Corners) -> np.ndarray:
    """Return which stretch goes on where each ends, -1 where a piece ends."""
    leaving = np.empty(len(corners.row), np.int64)
    leaving[sides.origin] = np.arange(len(sides.origin))
    return np.where(corners.are_ends[sides.target], -1, leaving[sides.target])


def _smoothed(
    sides: _Sides, sizes: np.ndarray, closed: np.ndarray, corners: _Corners, ids: np.ndarray
) -> Pieces:
    """Return chains of stretches as pieces, their points still with some on straight lines."""
    ends = np.cumsum(sizes) - 1
    begins = ends - sizes + 1
    way, last_way = sides.way[begins], sides.way[ends]
    left = _beside(ids, corners, sides.origin[begins], way)
    right = _beside(ids, corners, sides.origin[begins], (way + 1) % 4)
    loose = (left >= 0) & (right >= 0)
    is_first, is_last = np.zeros((2, len(sides.way)), bool)
    is_first[begins[~closed]] = is_last[ends[~closed]] = True
    inner = np.repeat(loose, sizes)
    points, is_line = corners.points, corners.are_on_lines
    origin, target, step = points[sides.origin], points[sides.target], STEPS[sides.way]
    from_line, to_line = is_first & is_line[sides.origin], is_last & is_line[sides.target]
    middle = np.where(from_line[:, None], origin, origin + step)
    last_middle = np.where(to_line[:, None], target, target - step)
    kept = (
        ~inner | (is_first & ~from_line),
        inner,
        inner & (middle != last_middle).any(axis=1),
        is_last & (~inner | ~to_line),
    )
    ways = np.stack([way, (last_way + 2) % 4], axis=1)
    pieces = Pieces(points[:0], sizes, left, right, ways, loose, closed)
    path = np.stack([origin, middle, last_middle, target], axis=1)
    return pieces.points_kept(np.stack(kept, axis=1), path)


def _beside(
    ids: np.ndarray, corners: _Corners, which: np.ndarray, quarter: np.ndarray
) -> np.ndarray:
    """Return the components in one of the quarters around corners, clockwise from north-east."""
    south, east = (quarter == 1) | (quarter == 2), quarter <= 1
    return ids[corners.row[which] + south, corners.column[which] + east]


def _straightened(pieces: Pieces) -> Pieces:
    """Return pieces without points at which they do not turn, their ends excepted."""
    before, after = beside(pieces.sizes)
    turns = cross(pieces.points[before], pieces.points, pieces.points[after]) != 0
    begins, ends = pieces.begins, np.cumsum(pieces.sizes) - 1
    opened = ~pieces.closed
    turns[begins[opened]] = turns[ends[opened]] = True
    return pieces.points_kept(turns)


def cross(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return twice the signed area of triangles, int64 [N], of whole points [N, 2]."""
    (x1, y1), (x2, y2) = (b - a).T.astype(np.int64), (c - b).T.astype(np.int64)
    return x1 * y2 - y1 * x2
