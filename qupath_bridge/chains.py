"""Things that follow one another: put in order, in one go."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph


def walked(following: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the order in which things follow one another, chain by chain.

    following: int [N], which comes after each, -1 for none; no two have the same. With the order
    come how many each chain has, and whether it is closed, bool; where a closed one begins is its
    lowest index.
    """
    count, chain = csgraph.connected_components(_steps(following), directed=False)
    has_next = following >= 0
    is_head = np.ones(len(following), bool)
    is_head[following[has_next]] = False
    _, head = np.unique(chain, return_index=True)
    closed = np.ones(count, bool)
    closed[chain[is_head]] = False
    head[chain[is_head]] = np.flatnonzero(is_head)
    is_tail = ~has_next | (following == head[chain])
    tail = np.empty(count, np.int64)
    tail[chain[is_tail]] = np.flatnonzero(is_tail)
    # Strung together the chains are one path, which is walked in one go.
    strung = following.copy()
    strung[tail[:-1]], strung[tail[-1]] = head[1:], -1
    order = csgraph.depth_first_order(_steps(strung), head[0], return_predecessors=False)
    return order, np.bincount(chain), closed


def ranges(begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the whole numbers of ranges, one range after another, and the range of each."""
    lengths = end - begin
    which = np.repeat(np.arange(len(lengths)), lengths)
    offsets = np.cumsum(lengths) - lengths
    return np.arange(len(which)) + (begin - offsets)[which], which


def beside(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices before and after each member of rings that lie one after another."""
    count = int(sizes.sum())
    before, after = np.arange(count) - 1, np.arange(count) + 1
    ends = np.cumsum(sizes) - 1
    begins = ends - sizes + 1
    before[begins], after[ends] = ends, begins
    return before, after


def _steps(following: np.ndarray) -> sparse.csr_array:
    """Return the graph from each index to the one following it."""
    has_next = following >= 0
    offsets = np.concatenate([[0], np.cumsum(has_next)]).astype(np.int32)
    targets = following[has_next].astype(np.int32)
    shape = (len(following), len(following))
    return sparse.csr_array((np.ones(len(targets)), targets, offsets), shape=shape)
