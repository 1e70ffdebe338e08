"""Maps of cells in strips of a chosen height, for tests of what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import shapely

from qupath_bridge.classmap import NODATA
from qupath_bridge.components import Absorbed, ComponentGraph, Runs
from qupath_bridge.outlines import outlined
from qupath_bridge.rim import IdStrip


def split(codes: np.ndarray, rows: int | None) -> list[np.ndarray]:
    """Return a map framed by cells without data, in strips."""
    framed = np.pad(codes, 1, constant_values=NODATA)
    rows = rows or len(framed)
    return [framed[top : top + rows] for top in range(0, len(framed), rows)]


def absorbed_in(
    strips: list[np.ndarray], min_object_cells: float, min_hole_cells: float
) -> tuple[Absorbed, list[Runs]]:
    """Return what is left of small components, where each cell is worth 1."""
    graph = ComponentGraph(min_object_cells, min_hole_cells)
    runs = [graph.add(strip, np.ones((1, *strip.shape), np.uint16)) for strip in strips]
    return graph.absorbed(), runs


def absorb_small(
    codes: np.ndarray, min_object_cells: float, min_hole_cells: float, rows: int | None = None
) -> np.ndarray:
    """Return a class map uint8 [H, W] whose small components went to what they touch."""
    strips = split(codes, rows)
    absorbed, runs = absorbed_in(strips, min_object_cells, min_hole_cells)
    ids = [np.repeat(absorbed.component[r.nodes], r.lengths) for r in runs]
    cells = np.append(absorbed.codes, np.uint8(NODATA))[np.concatenate(ids)]
    return cells.reshape(-1, codes.shape[1] + 2)[1:-1, 1:-1]


def outline_cells(
    codes: np.ndarray, tolerance_cells: float, rows: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return one polygon per connected component, in cells, and the class of each, by place."""
    strips = split(codes, rows)
    absorbed, runs = absorbed_in(strips, 0, 0)
    found = list(outlined(_id_strips(strips, absorbed, runs), absorbed, tolerance_cells))
    if not found:
        return np.empty(0, object), np.empty(0, np.uint8)
    polygons = shapely.transform(np.concatenate([f.polygons for f in found]), lambda xy: xy - 1)
    x0, y0, x1, y1 = shapely.bounds(polygons).T
    order = np.lexsort((shapely.area(polygons), x1, y1, x0, y0))
    return polygons[order], np.concatenate([f.codes for f in found])[order]


def _id_strips(strips: list[np.ndarray], absorbed: Absorbed, runs: list[Runs]) -> Iterator[IdStrip]:
    above, top = np.full((1, strips[0].shape[1]), -1, np.int32), 0
    for strip, of_strip in zip(strips, runs, strict=True):
        ids = np.repeat(absorbed.component[of_strip.nodes], of_strip.lengths).reshape(strip.shape)
        ids = np.concatenate([above, ids])
        yield IdStrip(top, top + len(strip), ids, np.empty((0, 2), np.int32))
        above, top = ids[-1:], top + len(strip)
