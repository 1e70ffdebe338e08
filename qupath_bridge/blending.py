"""Weighted sums of class probabilities, and who wins and how surely."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from qupath_bridge.classmap import NODATA, STEPS

LEAST = np.float32(1e-30)  # far below any weight of a window


@dataclass
class Cells:
    """The codes, probability and entropy of cells, each [h, w], as `ClassMap` has them."""

    codes: np.ndarray
    probability: np.ndarray
    entropy: np.ndarray

    @classmethod
    def nothing(cls, rows: int, columns: int) -> Cells:
        """Return cells where nothing was computed."""
        shape = (rows, columns)
        codes = np.full(shape, NODATA, np.uint8)
        return cls(codes, np.zeros(shape, np.uint16), np.zeros(shape, np.uint16))

    def columns(self, begin: int, end: int) -> Cells:
        """Return columns `begin` to before `end`; they share these cells' memory."""
        some = (slice(None), slice(begin, end))
        return Cells(self.codes[some], self.probability[some], self.entropy[some])


class BlendedBlock:
    """Weighted sums of some columns of a map, for as many rows as a tile's inside has.

    rows, columns: of cells. `used` is how many rows, from the top, may hold anything.
    """

    def __init__(self, class_count: int, rows: int, columns: int) -> None:
        self.used = 0
        self._shape = (class_count + 1, rows, columns)
        self._sums: np.ndarray | None = None  # float32 [K + 1, rows, columns], the weight last
        self._blank: np.ndarray | None = None  # bool [rows, columns]

    def add(self, begin: int, end: int, weighted: np.ndarray) -> None:
        """Add weighted probabilities, and last their weight, [K + 1, rows, end - begin]."""
        if self._sums is None:
            self._sums = np.zeros(self._shape, np.float32)
        self._sums[:, :, begin:end] += weighted
        self.used = self._shape[1]

    def add_blank(self, begin: int, end: int) -> None:
        """Note that columns are bare glass."""
        if self._blank is None:
            self._blank = np.zeros(self._shape[1:], bool)
        self._blank[:, begin:end] = True
        self.used = self._shape[1]

    def fill(self, cells: Cells, begin: int, blank_code: int) -> None:
        """Fill cells [h, columns] with what won in the rows from `begin`."""
        held = slice(begin, begin + len(cells.codes))
        seen = None
        if self._sums is not None:
            seen = _fill_winners(cells, self._sums[:-1, held], self._sums[-1, held])
        if self._blank is not None:
            blank = self._blank[held] if seen is None else self._blank[held] & ~seen
            cells.codes[blank] = blank_code
            cells.probability[blank] = STEPS

    def drop(self, count: int) -> None:
        """Forget the first `count` rows and make room for as many."""
        self.used = max(0, self.used - count)
        if not self.used:
            return
        layers = [] if self._sums is None else [*self._sums]
        for rows in (*layers, *([] if self._blank is None else [self._blank])):
            rows[:-count] = rows[count:]
            rows[-count:] = 0


def _fill_winners(cells: Cells, scores: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Fill cells [h, w] with what won of blended scores [K, h, w]; return which were seen."""
    # Class by class, so that each step runs over memory in one piece that fits in the cache.
    codes, best = np.zeros(weight.shape, np.uint8), scores[0].copy()
    for code, score in enumerate(scores[1:], 1):
        _raise(codes, score > best, code)
        np.maximum(best, score, out=best)
    seen = weight > 0
    _raise(codes, ~seen, NODATA)
    # No share is above one, although rounding of sums, or of scores, may make it so.
    scale = STEPS / np.maximum(np.maximum(weight, best), LEAST)
    cells.codes[:] = codes
    cells.probability[:] = _stepped(best, scale)
    cells.entropy[:] = _entropy_in_steps(scores, scale)
    return seen


def _raise(codes: np.ndarray, where: np.ndarray, code: int) -> None:
    """Set codes to one that is above all of them; many times as fast as by a mask."""
    np.maximum(codes, where.view(np.uint8) * np.uint8(code), out=codes)


def _stepped(scores: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return scores times a scale in whole steps, uint16."""
    steps = scores * scale
    return np.rint(steps, out=steps).astype(np.uint16)


def _entropy_in_steps(scores: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return what `normalised_entropy` does, of scores [K, h, w] times a scale, in steps."""
    entropy = np.zeros(scale.shape, np.float32)
    term, parts = np.empty_like(entropy), _entropy_parts(len(scores))
    for score in scores:
        entropy += np.take(parts, _stepped(score, scale), out=term, mode="clip")
    return np.rint(np.minimum(entropy, STEPS)).astype(np.uint16)


@cache
def _entropy_parts(class_count: int) -> np.ndarray:
    """Return what a probability adds to the entropy, float32 [STEPS + 1] by its step, in steps.

    Looked up it costs a third of a logarithm; a step is off by less than 1e-4 nats.
    """
    shares = np.arange(STEPS + 1) / STEPS
    return (_parts(shares) * (STEPS / _most(class_count))).astype(np.float32)


def normalised_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy over classes in parts of the most there can be, float32 [...], 0..1.

    `probabilities` is float [K, ...], adding to 1 over K. 0 is sure of one class, 1 is all classes
    alike; dividing by log K, so that heads of few and many classes compare, is ours. A head of one
    class is always sure. Source: Shannon 1948.
    """
    entropy = np.zeros(probabilities.shape[1:], np.float32)
    for shares in probabilities:  # one by one: a second copy of all classes is not needed
        entropy += _parts(shares)
    entropy /= np.float32(_most(len(probabilities)))
    return entropy.clip(0, 1, out=entropy)


def _parts(shares: np.ndarray) -> np.ndarray:
    """Return what shares add to the entropy, in nats; 0 log 0 is 0."""
    return -shares * np.log(np.maximum(shares, np.finfo(shares.dtype).tiny))


def _most(class_count: int) -> float:
    """Return the largest entropy there can be, in nats; of one class any number but 0."""
    return float(np.log(max(class_count, 2)))


def blend_window(cells: int, margin_cells: int) -> np.ndarray:
    """Return a tile's weights, float32 [cells, cells]: 0 in the rim, a Hann window > 0 inside."""
    inside = cells - 2 * margin_cells
    hann = np.zeros(cells)
    # Sampled at the middle of each cell, so that the window's own zeros fall outside of it.
    phase = (np.arange(inside) + 0.5) / inside
    hann[margin_cells : margin_cells + inside] = np.sin(np.pi * phase) ** 2
    return np.outer(hann, hann).astype(np.float32)
