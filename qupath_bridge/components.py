"""Small components of a class map and what becomes of them.

The map is seen as a graph: first of horizontal runs of equal cells, then of the components they
join to (4-connected), and small components are given away by changing the class of a node. So the
work is with the borders between components, not with cells, and the map may come strip by strip:
the graph of the whole is the strips' graphs and the edges across their seams. Nodes are numbered by
their first cell, so it is the same graph however high the strips are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from qupath_bridge.classmap import NODATA
from qupath_bridge.wanted import check_wanted


@dataclass(frozen=True)
class CellGraph:
    """Pieces of a class map and which of them touch.

    codes: uint8 [N], `NODATA` outside. sizes: int64 [N], cells. edges: int [E, 2], each pair of
    touching pieces once, but pairs of which neither is small: nothing depends on them.
    """

    codes: np.ndarray
    sizes: np.ndarray
    edges: np.ndarray


@dataclass(frozen=True)
class Runs:
    """A strip as horizontal runs: int32 [R] cells of each and int32 [R] its node, row by row."""

    lengths: np.ndarray
    nodes: np.ndarray


@dataclass(frozen=True)
class Absorbed:
    """What became of the nodes: int32 [N] the component of each, -1 outside.

    codes: uint8 [M], the class of each component. counts: int64 [M], its cells that had this
    class from the start. sums: int64 [L, M], of what was measured in those.
    """

    component: np.ndarray
    codes: np.ndarray
    counts: np.ndarray
    sums: np.ndarray


class ComponentGraph:
    """The graph of a class map that comes strip by strip from the top.

    The strips' first and last columns, and the map's first and last row, must be `NODATA`.
    """

    def __init__(self, min_object_cells: float, min_hole_cells: float) -> None:
        self._limits = (min_object_cells, min_hole_cells)
        self._parts: list[CellGraph] = []
        self._sums: list[np.ndarray] = []
        self._seams: list[np.ndarray] = []
        self._count = 0
        self._last_row: np.ndarray | None = None  # nodes

    def add(self, codes: np.ndarray, measured: np.ndarray) -> Runs:
        """Return the next strip's runs, their nodes counted on from the strips before.

        codes: uint8 [h, W]. measured: uint16 [L, h, W], whose sums over components are wanted.
        """
        graph, lengths, nodes = _strip_graph(codes)
        starts = np.cumsum(lengths) - lengths
        by_run = [np.add.reduceat(layer.ravel(), starts, dtype=np.int64) for layer in measured]
        self._sums.append(np.stack([_summed(nodes, run, len(graph.codes)) for run in by_run]))
        nodes += self._count
        rows = _edge_rows(lengths, nodes, codes.shape[1])
        if self._last_row is not None:
            pairs = np.stack([self._last_row, rows[0]], axis=1)
            self._seams.append(np.unique(pairs, axis=0))
        self._parts.append(self._worth_keeping(graph))
        self._count += len(graph.codes)
        self._last_row = rows[1]
        return Runs(lengths.astype(np.int32), nodes)

    def absorbed(self) -> Absorbed:
        """Return the components that are left once small ones went to what they touch.

        A component below the smallest object goes to the largest component it touches; so does one
        below the smallest hole that a single other one encloses, which the edge of the data is
        not. The smallest go first. A component that touches no other stays, however small.
        `NODATA` stays. The graph is used up.
        """
        whole, sums = self._whole(), np.concatenate(self._sums, axis=1)
        self._parts, self._sums, self._seams = [], [], []
        graph, component = _joined(whole)
        whole = replace(whole, edges=whole.edges[:0])
        while (given := _given_away(graph, *self._limits)) is not None:
            check_wanted()
            graph, joined = _joined(given)
            component = joined[component]
        is_object = graph.codes != NODATA
        number = np.where(is_object, np.cumsum(is_object) - 1, -1).astype(np.int32)
        own = whole.codes == graph.codes[component]
        component = number[component]
        own &= component >= 0
        count = int(is_object.sum())
        return Absorbed(
            component,
            graph.codes[is_object],
            _summed(component[own], whole.sizes[own], count),
            np.stack([_summed(component[own], layer[own], count) for layer in sums]),
        )

    def _worth_keeping(self, graph: CellGraph) -> CellGraph:
        """Return a strip's graph without edges that nothing depends on, as small as can be."""
        small = (graph.codes != NODATA) & (graph.sizes < max(self._limits))
        edges = graph.edges[small[graph.edges].any(axis=1)] + self._count
        return CellGraph(graph.codes, graph.sizes.astype(np.int32), edges.astype(np.int32))

    def _whole(self) -> CellGraph:
        edges = [part.edges for part in self._parts]
        return CellGraph(
            np.concatenate([part.codes for part in self._parts]),
            np.concatenate([part.sizes for part in self._parts]).astype(np.int64),
            np.concatenate([*edges, *self._seams]),
        )


def _strip_graph(codes: np.ndarray) -> tuple[CellGraph, np.ndarray, np.ndarray]:
    """Return a strip's graph, the lengths of its runs and the node of each, int32."""
    if not (codes != NODATA).any():
        empty = CellGraph(codes[0, :1].copy(), np.array([codes.size]), np.empty((0, 2), np.int64))
        return empty, np.array([codes.size]), np.zeros(1, np.int32)
    runs, lengths = _runs(codes)
    graph, nodes = _joined(runs)
    return graph, lengths, nodes.astype(np.int32)


def _edge_rows(lengths: np.ndarray, nodes: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes of a strip's first and last row, int32 [W] each."""
    ends = np.cumsum(lengths)
    top = np.searchsorted(ends, np.arange(width), side="right")
    bottom = np.searchsorted(ends, np.arange(ends[-1] - width, ends[-1]), side="right")
    return nodes[top], nodes[bottom]


def _summed(nodes: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Return the sums of whole numbers by node, int64 [count]; exact, and so in any order."""
    sums = np.zeros(count, np.int64)
    np.add.at(sums, nodes, values)
    return sums


def _runs(codes: np.ndarray) -> tuple[CellGraph, np.ndarray]:
    """Return the graph of horizontal runs of equal cells, and the length of each run."""
    begins = np.ones(codes.shape, bool)
    begins[:, 1:] = codes[:, 1:] != codes[:, :-1]
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=codes.size)
    run = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    # Two runs, one below the other, first meet where one of them begins.
    meet = np.flatnonzero(begins[1:] | begins[:-1])
    vertical = np.stack([run[meet], run[meet + codes.shape[1]]], axis=1)
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
    joined_count, joined = csgraph.connected_components(links, directed=False)
    codes = np.empty(joined_count, np.uint8)
    codes[joined] = graph.codes
    one, other = joined[first[~same]], joined[second[~same]]
    # Edges are as many as nodes, and whole slides have millions: no copy more than needed.
    keys = np.minimum(one, other).astype(np.int64)
    keys *= joined_count
    keys += np.maximum(one, other)
    keys.sort()
    keys = keys[np.diff(keys, prepend=-1) > 0]
    edges = np.empty((len(keys), 2), np.int32)
    edges[:, 0] = keys // joined_count
    edges[:, 1] = keys % joined_count
    return CellGraph(codes, _summed(joined, graph.sizes, joined_count), edges), joined


def _given_away(graph: CellGraph, min_object: float, min_hole: float) -> CellGraph | None:
    """Return the graph with some small nodes in the class of their largest neighbour.

    None once there are none left to give. Nodes given away together never touch each other: each
    is the smallest small one among its neighbours.
    """
    outside = graph.codes == NODATA
    first, second = graph.edges.T
    at_edge = np.zeros(len(graph.codes), bool)
    at_edge[first[outside[second]]] = at_edge[second[outside[first]]] = True
    inner = ~(outside[first] | outside[second])
    one, other = first[inner], second[inner]
    ways = (one, other), (other, one)
    degree = sum(np.bincount(source, minlength=len(graph.codes)) for source, _ in ways)
    is_hole = (degree == 1) & ~at_edge & (graph.sizes < min_hole)
    small = ~outside & (degree > 0) & ((graph.sizes < min_object) | is_hole)
    if not small.any():
        return None
    del degree
    order, rank = _ranks(graph.sizes)
    smallest, largest = np.full_like(rank, len(rank)), np.full_like(rank, -1)
    for source, target in ways:
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
    order = np.lexsort((shuffled, sizes)).astype(np.int32)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return order, rank
