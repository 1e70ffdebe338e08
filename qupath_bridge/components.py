"""Small components of a class map and what becomes of them.

The map is seen as a graph: first of horizontal runs of equal cells, then of the components they
join to (4-connected), and small components are given away by changing the class of a node. So the
work is with the borders between components, not with cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from qupath_bridge.fusion import NODATA


@dataclass(frozen=True)
class CellGraph:
    """Pieces of a class map and which of them touch.

    codes: uint8 [N], `NODATA` outside. sizes: int64 [N], cells. edges: int64 [E, 2], each pair of
    touching pieces once.
    """

    codes: np.ndarray
    sizes: np.ndarray
    edges: np.ndarray


def absorb_small(codes: np.ndarray, min_object_cells: float, min_hole_cells: float) -> np.ndarray:
    """Return a class map uint8 [H, W] whose small components went to what they touch.

    A component below `min_object_cells` goes to the largest component it touches; so does one
    below `min_hole_cells` that a single other one encloses, which the edge of the data is not.
    The smallest go first. A component that touches no other stays, however small. `NODATA` stays.
    """
    padded = np.pad(codes, 1, constant_values=NODATA)
    graph, run_lengths = _runs(padded)
    graph, node_of_run = _joined(graph)
    while (given := _given_away(graph, min_object_cells, min_hole_cells)) is not None:
        graph, joined = _joined(given)
        node_of_run = joined[node_of_run]
    absorbed = np.repeat(graph.codes[node_of_run], run_lengths).reshape(padded.shape)
    return absorbed[1:-1, 1:-1]


def _runs(codes: np.ndarray) -> tuple[CellGraph, np.ndarray]:
    """Return the graph of horizontal runs of equal cells, and the length of each run."""
    begins = np.ones(codes.shape, bool)
    begins[:, 1:] = codes[:, 1:] != codes[:, :-1]
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=codes.size)
    run = np.cumsum(begins.ravel(), dtype=np.int32).reshape(codes.shape) - 1
    # Two runs, one below the other, first meet where one of them begins.
    meet = begins[1:] | begins[:-1]
    vertical = np.stack([run[:-1][meet], run[1:][meet]], axis=1)
    inner = np.flatnonzero(starts % codes.shape[1])
    horizontal = np.stack([inner - 1, inner], axis=1)
    edges = np.concatenate([vertical.astype(np.int64), horizontal])
    return CellGraph(codes.ravel()[starts], lengths, edges), lengths


def _joined(graph: CellGraph) -> tuple[CellGraph, np.ndarray]:
    """Return the graph with touching nodes of one class made one, and which node each became."""
    count = len(graph.codes)
    first, second = graph.edges.T
    same = graph.codes[first] == graph.codes[second]
    links = sparse.coo_array((same[same], (first[same], second[same])), shape=(count, count))
    joined_count, joined = sparse.csgraph.connected_components(links, directed=False)
    codes = np.empty(joined_count, np.uint8)
    codes[joined] = graph.codes
    sizes = np.zeros(joined_count, np.int64)
    np.add.at(sizes, joined, graph.sizes)
    pairs = np.sort(joined[graph.edges[~same]].astype(np.int64), axis=1)
    keys = np.sort(pairs[:, 0] * joined_count + pairs[:, 1])
    keys = keys[np.diff(keys, prepend=-1) > 0]
    edges = np.stack(np.divmod(keys, joined_count), axis=1)
    return CellGraph(codes, sizes, edges), joined


def _given_away(graph: CellGraph, min_object: float, min_hole: float) -> CellGraph | None:
    """Return the graph with some small nodes in the class of their largest neighbour.

    None once there are none left to give. Nodes given away together never touch each other: each
    is the smallest small one among its neighbours.
    """
    source, target = np.concatenate([graph.edges, graph.edges[:, ::-1]]).T
    outside = graph.codes[target] == NODATA
    at_edge = np.zeros(len(graph.codes), bool)
    at_edge[source[outside]] = True
    source, target = source[~outside], target[~outside]
    degree = np.bincount(source, minlength=len(graph.codes))
    is_hole = (degree == 1) & ~at_edge & (graph.sizes < min_hole)
    small = (graph.codes != NODATA) & (degree > 0) & ((graph.sizes < min_object) | is_hole)
    if not small.any():
        return None
    order, rank = _ranks(graph.sizes)
    smallest, largest = np.full(len(rank), len(rank)), np.full(len(rank), -1)
    among_small = small[target]
    np.minimum.at(smallest, source[among_small], rank[target[among_small]])
    np.maximum.at(largest, source, rank[target])
    now = small & (rank < smallest)
    codes = graph.codes.copy()
    codes[now] = graph.codes[order[largest[now]]]
    return CellGraph(codes, graph.sizes, graph.edges)


def _ranks(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes from small to large, and each node's place among them.

    Nodes of equal size are shuffled, always alike: in the order of the map a long row of equals
    would be given away one at a time.
    """
    shuffled = np.arange(len(sizes), dtype=np.uint64) * 0x9E3779B97F4A7C15
    order = np.lexsort((shuffled, sizes))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return order, rank
