"""Strips of components, in which cells at the region's border take the nearest component."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qupath_bridge.components import Absorbed
from qupath_bridge.packed import PackedStrip
from qupath_bridge.strips import REACH

OUTSIDE = -1


@dataclass(frozen=True)
class IdStrip:
    """Components of rows `top` to before `end`, int32 [1 + h, W], -1 outside; the row above first.

    same: int32 [S, 2], pairs of components of one class that touch where one was spread, and so
    are one object.
    """

    top: int
    end: int
    ids: np.ndarray
    same: np.ndarray


@dataclass
class _Cells:
    """Components of cells and which of them are rim, both [h, W]."""

    ids: np.ndarray
    rim: np.ndarray

    def __getitem__(self, rows: slice) -> _Cells:
        return _Cells(self.ids[rows], self.rim[rows])

    def copy(self) -> _Cells:
        """Return the same cells in memory of their own."""
        return _Cells(self.ids.copy(), self.rim.copy())

    @classmethod
    def stacked(cls, parts: Sequence[_Cells]) -> _Cells:
        """Return cells of rows below one another."""
        ids, rim = [part.ids for part in parts], [part.rim for part in parts]
        return cls(np.concatenate(ids), np.concatenate(rim))


def id_strips(strips: Iterable[PackedStrip], width: int, absorbed: Absorbed) -> Iterator[IdStrip]:
    """Yield a map's strips from the top, their rims filled."""
    above = _Cells(np.full((REACH, width), OUTSIDE, np.int32), np.zeros((REACH, width), bool))
    nothing, row_above, top = above[:0], above.ids[-1:], 0
    coming = (_cells(strip, width, absorbed.component) for strip in strips)
    strip: _Cells | None = next(coming)
    while strip is not None:
        following = next(coming, None)
        window = _Cells.stacked((above, strip, following[:REACH] if following else nothing))
        own = slice(REACH, REACH + len(strip.ids))
        above = strip[-REACH:].copy()
        spread = _fill(window)
        ids = np.concatenate([row_above, window.ids[own]])
        same = _same_objects(ids, absorbed.codes, spread[own])
        end = top + len(strip.ids)
        yield IdStrip(top, end, ids, same)
        strip, row_above, top = following, ids[-1:], end


def _cells(strip: PackedStrip, width: int, component: np.ndarray) -> _Cells:
    runs = strip.runs
    ids = np.repeat(component[runs.nodes], runs.lengths).reshape(strip.rows, width)
    return _Cells(ids, strip.rim_cells(width))


def _fill(cells: _Cells) -> np.ndarray:
    """Give rim cells the component of the nearest cell that has one; return which got one.

    The nearest over the sides of cells; above goes before left, right and below. The columns at
    both ends are never rim.
    """
    width, flat = cells.ids.shape[1], cells.ids.ravel()
    spread = np.zeros(cells.ids.shape, bool)
    empty = np.flatnonzero(cells.rim)
    for _ in range(REACH):
        taken = np.full(len(empty), OUTSIDE, np.int32)
        for side in (-width, -1, 1, width):
            beside = empty + side
            found = flat[beside.clip(0, flat.size - 1)]
            found[(beside < 0) | (beside >= flat.size)] = OUTSIDE
            taken = np.where(taken == OUTSIDE, found, taken)
        flat[empty] = taken
        spread.ravel()[empty[taken != OUTSIDE]] = True
        empty = empty[taken == OUTSIDE]
    return spread


def _same_objects(ids: np.ndarray, codes: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """Return pairs of components of one class that touch where cells of a strip were filled.

    filled: bool [h, W]; cells of the row above, which is not part of it, may have been filled too.
    """
    flat, width = ids.ravel(), ids.shape[1]
    here = width + np.flatnonzero(filled)
    seam = np.arange(width)
    one = np.concatenate([seam, *(here,) * 4])
    other = np.concatenate([seam + width, *(here + side for side in (-width, -1, 1, width))])
    inside = other < flat.size
    pairs = np.stack([flat[one[inside]], flat[other[inside]]], axis=1)
    pairs = pairs[(pairs[:, 0] != pairs[:, 1]) & (pairs >= 0).all(axis=1)]
    return np.unique(pairs[codes[pairs[:, 0]] == codes[pairs[:, 1]]], axis=0)
