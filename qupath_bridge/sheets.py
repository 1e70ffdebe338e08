"""Sheets: what hangs together of a mask, each with all that it encloses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Sheet:
    """One sheet. box: its rows and columns. cells: bool, of the box, holes included."""

    box: tuple[slice, slice]
    cells: np.ndarray


def complete_rows(mask: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the rows above all that touches the last row, and what begins in them, bool [H, W].

    mask: bool [H, W], the upper part of a mask that may go on below. Pieces hang together across
    corners too.
    """
    if not mask.any():
        return len(mask), mask
    labels, _ = ndimage.label(mask, EIGHT)
    tops = np.array([0] + [rows.start for rows, _ in ndimage.find_objects(labels)])
    is_open = np.zeros(len(tops), bool)
    is_open[labels[-1]] = True
    is_open[0] = False
    end = int(tops[is_open].min(initial=len(mask)))
    begins_above = tops < end
    begins_above[0] = False
    return end, begins_above[labels]


def sheets_of(begun: np.ndarray) -> Iterator[Sheet]:
    """Yield the sheets of complete pieces, bool [H, W]."""
    if not begun.any():
        return
    labels, _ = ndimage.label(_filled(begun), EIGHT)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        yield Sheet(box, labels[box] == number)


def row_of_least(mask: np.ndarray) -> int:
    """Return the row of a mask's lower half that hangs together least with the one above it."""
    half = max(1, len(mask) // 2)
    return half + int((mask[half - 1 : -1] & mask[half:]).sum(axis=1).argmin())


def _filled(mask: np.ndarray) -> np.ndarray:
    """Return a mask and what it encloses; what meets an edge is not enclosed."""
    around, count = ndimage.label(~mask)
    is_open = np.zeros(count + 1, bool)
    for edge in (around[0], around[-1], around[:, 0], around[:, -1]):
        is_open[edge] = True
    is_open[0] = False
    filled: np.ndarray = ~is_open[around]
    return filled


def colors_of(ids: np.ndarray) -> np.ndarray:
    """Return a color for each id, int [N + 1], from 0; no two that touch share one."""
    neighbours: dict[int, set[int]] = {}
    for one, other in _touching(ids):
        neighbours.setdefault(one, set()).add(other)
        neighbours.setdefault(other, set()).add(one)
    colors = np.zeros(int(ids.max(initial=0)) + 1, np.int64)
    for number in sorted(neighbours):
        taken = {int(colors[n]) for n in neighbours[number] if n < number}
        colors[number] = next(c for c in range(len(taken) + 1) if c not in taken)
    return colors


def _touching(ids: np.ndarray) -> list[tuple[int, int]]:
    """Return each pair of ids whose cells touch, across corners too, once."""
    views = (
        (ids[:, :-1], ids[:, 1:]),
        (ids[:-1], ids[1:]),
        (ids[:-1, :-1], ids[1:, 1:]),
        (ids[:-1, 1:], ids[1:, :-1]),
    )
    pairs = [
        np.stack([a[touch], b[touch]], axis=1)
        for a, b in views
        for touch in [(a != b) & (a > 0) & (b > 0)]
    ]
    found = np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)
    return [(int(a), int(b)) for a, b in found]
