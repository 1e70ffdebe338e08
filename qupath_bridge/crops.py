"""Which parts of a slide are read to learn from its annotations.

Crops are rectangles of whole cells of one lattice over the slide. Annotations that would share a
cell form a cluster. No two crops overlap, so whatever is held out, no pixel is on both sides.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import shapely
from rasterio import features
from rasterio.transform import Affine
from shapely.geometry.base import BaseGeometry

Cell = tuple[int, int]
"""(column, row) of the lattice."""


@dataclass(frozen=True)
class CropPlan:
    """How crops are laid: all in model pixels.

    cell_m: side of a cell, the model's tile. crop_m: longest side of a crop. context_m: how much
    around an annotation the crops show too. most: crops that a slide gives to one class.
    """

    cell_m: int = 256
    crop_m: int = 1024
    context_m: int = 16
    most: int = 64

    @property
    def block(self) -> int:
        """Return the longest side of a crop in cells."""
        return max(1, self.crop_m // self.cell_m)


class Crop(NamedTuple):
    """A box in model pixels, and the number of its cluster."""

    x_m: int
    y_m: int
    width_m: int
    height_m: int
    cluster: int


def crops_of(
    outlines_m: Sequence[BaseGeometry], size_m: tuple[float, float], plan: CropPlan
) -> list[Crop]:
    """Return the crops that show the outlines of a slide of (width, height), cluster by cluster.

    Those at the far edges may reach beyond the slide.
    """
    limits = (math.ceil(size_m[0] / plan.cell_m), math.ceil(size_m[1] / plan.cell_m))
    cells = [_cells_of(outline, limits, plan) for outline in outlines_m]
    side = plan.cell_m
    crops = [
        Crop(x0 * side, y0 * side, (x1 - x0) * side, (y1 - y0) * side, number)
        for number, cluster in enumerate(_clusters(cells, plan.block))
        for x0, y0, x1, y1 in _rectangles(cluster, plan.block)
    ]
    filled = np.flatnonzero(np.any(_shows(crops, outlines_m), axis=0))
    return [crops[index] for index in filled]


def thinned(
    crops: Sequence[Crop], outlines_m: Sequence[BaseGeometry], classes: Sequence[str], most: int
) -> list[Crop]:
    """Return at most `most` crops for each class of the outlines, spread evenly, in their order."""
    shows = _shows(crops, outlines_m)
    kept: set[int] = set()
    for name in set(classes):
        of_class = [known == name for known in classes]
        there = np.flatnonzero(shows[of_class].any(axis=0))
        picked = np.linspace(0, len(there) - 1, min(most, len(there))).round().astype(int)
        kept.update(there[picked].tolist())
    return [crop for index, crop in enumerate(crops) if index in kept]


def _shows(crops: Sequence[Crop], outlines_m: Sequence[BaseGeometry]) -> np.ndarray:
    """Return whether an outline is in a crop and does not only touch it, bool [outline, crop]."""
    x, y, width, height = np.array([crop[:4] for crop in crops]).reshape(-1, 4).T
    boxes = shapely.box(x + 0.5, y + 0.5, x + width - 0.5, y + height - 0.5)
    shapely.prepare(list(outlines_m))
    return np.array([shapely.intersects(outline, boxes) for outline in outlines_m])


def _cells_of(outline_m: BaseGeometry, limits: tuple[int, int], plan: CropPlan) -> frozenset[Cell]:
    """Return the cells that an outline and its context touch, within the limits."""
    # Simplified by less than the context, no part of the outline is lost, and a large one is quick.
    grown = outline_m.simplify(plan.context_m / 4).buffer(plan.context_m)
    side = plan.cell_m
    x0, y0, x1, y1 = (value / side for value in grown.bounds)
    column, row = max(0, math.floor(x0)), max(0, math.floor(y0))
    shape = (min(math.ceil(y1), limits[1]) - row, min(math.ceil(x1), limits[0]) - column)
    burnt = features.rasterize(
        [grown],
        out_shape=shape,
        transform=Affine(side, 0, column * side, 0, side, row * side),
        all_touched=True,
        dtype="uint8",
    )
    return frozenset((column + int(x), row + int(y)) for y, x in np.argwhere(burnt))


def _clusters(cells: Sequence[frozenset[Cell]], block: int) -> list[frozenset[Cell]]:
    """Return the cells of each cluster, united until no rectangle reaches into another's."""
    clusters = list(cells)
    while True:
        united = _united([_filled(cluster, block) for cluster in clusters])
        if len(united) == len(clusters):
            return united
        clusters = united


def _united(clusters: Sequence[frozenset[Cell]]) -> list[frozenset[Cell]]:
    """Return the clusters, those that share a cell made one, in order of their first."""
    parent = list(range(len(clusters)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    owner: dict[Cell, int] = {}
    for index, cluster in enumerate(clusters):
        for cell in cluster:
            one, other = sorted((root(owner.setdefault(cell, index)), root(index)))
            parent[other] = one
    gathered: dict[int, set[Cell]] = defaultdict(set)
    for index, cluster in enumerate(clusters):
        gathered[root(index)] |= cluster
    return [frozenset(gathered[index]) for index in sorted(gathered)]


def _filled(cluster: Collection[Cell], block: int) -> frozenset[Cell]:
    return frozenset(
        (x, y)
        for x0, y0, x1, y1 in _rectangles(cluster, block)
        for x in range(x0, x1)
        for y in range(y0, y1)
    )


def _rectangles(cluster: Collection[Cell], block: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes of cells that hold a cluster's: x0, y0, x1, y1; no side longer than a block."""
    left, top = min(x for x, _ in cluster), min(y for _, y in cluster)
    blocks: dict[Cell, list[Cell]] = defaultdict(list)
    for x, y in cluster:
        blocks[(y - top) // block, (x - left) // block].append((x, y))
    for _, inside in sorted(blocks.items()):
        columns, rows = zip(*inside, strict=True)
        yield min(columns), min(rows), max(columns) + 1, max(rows) + 1
