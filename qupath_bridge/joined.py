"""Components that turn out to be one object, and what was measured of objects."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from qupath_bridge.components import Absorbed


class JoinedObjects:
    """Which object each component is part of, as far as was told: the first of those it joins.

    A join costs what it names, however many components there are.
    """

    def __init__(self, absorbed: Absorbed) -> None:
        self.count = len(absorbed.codes)
        self._counts, self._sums = absorbed.counts.copy(), absorbed.sums.copy()
        self._joined_to = np.arange(self.count + 1, dtype=np.int32)
        self._joined_to[-1] = -1  # outside is part of nothing

    def of(self, components: np.ndarray) -> np.ndarray:
        """Return the object of each component, int32 [N], -1 for -1."""
        objects = self._joined_to[components]
        while ((further := self._joined_to[objects]) != objects).any():
            objects = further
        return objects

    def join(self, pairs: np.ndarray) -> None:
        """Note pairs of components, int [S, 2], that are one object each."""
        if not len(pairs):
            return
        objects, place = np.unique(self.of(pairs.ravel()), return_inverse=True)
        one, other = place.reshape(pairs.shape).T
        shape = (len(objects), len(objects))
        links = sparse.coo_array((np.ones(len(one)), (one, other)), shape=shape)
        _, group = csgraph.connected_components(links, directed=False)
        _, first = np.unique(group, return_index=True)
        joins = objects != objects[first[group]]
        gone, kept = objects[joins], objects[first[group]][joins]
        self._joined_to[gone] = kept
        np.add.at(self._counts, kept, self._counts[gone])
        for layer in self._sums:
            np.add.at(layer, kept, layer[gone])

    def means(self, objects: np.ndarray) -> np.ndarray:
        """Return the means over the cells of objects, float64 [L, N], of what was measured."""
        means: np.ndarray = self._sums[:, objects] / np.maximum(self._counts[objects], 1)
        return means
