"""Corners of outlines given up, small triangles first, without ever crossing another outline.

Source: Visvalingam and Whyatt 1993, the area of the triangle at a corner as what it is worth. Ours
is that all corners worth less than both their neighbours go at once, and that a corner stays while
any other point of the strip, given up or not, lies in its triangle: so no piece depends on what
became of another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qupath_bridge.chains import beside
from qupath_bridge.crowd import Crowd
from qupath_bridge.pieces import Pieces, cross

NEVER = np.iinfo(np.int64).max
SWAPS = ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF), (16, 0x0000FFFF))


def simplified(pieces: Pieces, tolerance_cells: float) -> Pieces:
    """Return a strip's pieces without corners whose triangle is below the tolerance's square.

    Ends stay, and so does all that is not loose. All pieces of the strip must be there.
    """
    corners = _Corners.of(pieces, 8 * tolerance_cells**2)  # twice the area, in half cells
    active = np.flatnonzero(corners.worth < corners.limit)
    if not len(active):
        return pieces
    crowd, is_active = Crowd(pieces), np.zeros(len(pieces.points), bool)
    while len(active):
        chosen = corners.spared(corners.smallest(active))
        before, after = corners.before[chosen], corners.after[chosen]
        blocked = crowd.any_in(before, chosen, after)
        corners.worth[chosen[blocked]] = NEVER
        gone = chosen[~blocked]
        crowd.forget(before[~blocked], gone)
        changed = corners.give_up(gone)
        is_active[active] = is_active[changed] = True
        active = np.flatnonzero(is_active)
        is_active[active] = False
        active = active[corners.can_go(active) & (corners.worth[active] < corners.limit)]
    return pieces.points_kept(corners.stays)


@dataclass
class _Corners:
    """The points of pieces and what each is worth; `NEVER` if it cannot go.

    before, after: the points beside each that are left. turn: decides between equals; of a long
    row of them every second goes first. spare: how many each piece can still do without.
    """

    points: np.ndarray
    piece: np.ndarray
    before: np.ndarray
    after: np.ndarray
    may_go: np.ndarray
    spare: np.ndarray
    limit: float
    turn: np.ndarray
    worth: np.ndarray
    stays: np.ndarray

    @classmethod
    def of(cls, pieces: Pieces, limit: float) -> _Corners:
        """Return the corners of pieces."""
        count = len(pieces.points)
        begins, ends = pieces.begins, np.cumsum(pieces.sizes) - 1
        before, after = beside(pieces.sizes)
        may_go = np.repeat(pieces.loose, pieces.sizes)
        opened = ~pieces.closed
        may_go[begins[opened]] = may_go[ends[opened]] = False
        place = np.arange(count) - np.repeat(begins, pieces.sizes)
        corners = cls(
            points=pieces.points,
            piece=np.repeat(np.arange(len(pieces.sizes)), pieces.sizes),
            before=before,
            after=after,
            may_go=may_go,
            spare=pieces.sizes - _fewest(pieces),
            limit=limit,
            turn=_bits_reversed(place),
            worth=np.full(count, NEVER),
            stays=np.ones(count, bool),
        )
        corners.weigh(np.flatnonzero(may_go))
        return corners

    def weigh(self, which: np.ndarray) -> None:
        """Set what some corners are worth."""
        ends = self.points[self.before[which]], self.points[self.after[which]]
        area = np.abs(cross(ends[0], self.points[which], ends[1]))
        self.worth[which] = np.where(self.can_go(which), area, NEVER)

    def can_go(self, which: np.ndarray) -> np.ndarray:
        """Return which corners are no ends, in pieces that can do without one more."""
        return self.may_go[which] & (self.spare[self.piece[which]] > 0)

    def smallest(self, which: np.ndarray) -> np.ndarray:
        """Return those that are worth less than both corners beside them."""
        for neighbour in (self.before, self.after):
            other = neighbour[which]
            mine, others = self.worth[which], self.worth[other]
            equal = (mine == others) & (self.turn[which] < self.turn[other])
            which = which[(mine < others) | equal]
        return which

    def spared(self, which: np.ndarray) -> np.ndarray:
        """Return those, the least worth first, that their pieces can do without."""
        order = np.lexsort((self.turn[which], self.worth[which], self.piece[which]))
        which = which[order]
        piece = self.piece[which]
        place = np.arange(len(which)) - np.searchsorted(piece, piece)
        return which[place < self.spare[piece]]

    def give_up(self, which: np.ndarray) -> np.ndarray:
        """Take corners out, none of which are beside each other; return those beside them."""
        before, after = self.before[which], self.after[which]
        self.after[before], self.before[after] = after, before
        self.stays[which] = False
        self.worth[which] = NEVER
        np.subtract.at(self.spare, self.piece[which], 1)
        changed = np.concatenate([before, after])
        self.weigh(changed)
        return changed


def _fewest(pieces: Pieces) -> np.ndarray:
    """Return how many points each piece needs, so that no outline folds into a line.

    Four a closed one, and one that begins where it ends. Three if another has the same ends, or if
    it comes back to the line it came from, beyond which it goes on in the next strip.
    """
    first, last = (pieces.points[i] for i in (pieces.begins, np.cumsum(pieces.sizes) - 1))
    ends = np.concatenate([first, last], axis=1)
    ends = np.where(_is_later(first, last)[:, None], ends, np.concatenate([last, first], axis=1))
    _, number, counts = np.unique(ends, axis=0, return_inverse=True, return_counts=True)
    on_line = (first[:, 1] % 2 == 1) & (first[:, 1] == last[:, 1])
    need_three = (counts[number.ravel()] > 1) | on_line
    need_four = pieces.closed | (first == last).all(axis=1)
    return np.where(need_four, 4, np.where(need_three, 3, 2))


def _bits_reversed(numbers: np.ndarray) -> np.ndarray:
    """Return numbers of 32 bits, the lowest bit as the highest, uint32."""
    bits = numbers.astype(np.uint32)
    for width, mask in SWAPS:
        low = np.uint32(mask)
        bits = ((bits & low) << np.uint32(width)) | ((bits >> np.uint32(width)) & low)
    return bits


def _is_later(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return where the other of two points comes later, row by row."""
    (x1, y1), (x2, y2) = one.T, other.T
    return (y1 < y2) | ((y1 == y2) & (x1 < x2))
