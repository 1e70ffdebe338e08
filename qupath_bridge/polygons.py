"""Class map -> the outlines of its connected objects, clipped to the region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import rasterio
import rasterio.features
import shapely
from scipy import ndimage
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from qupath_bridge.components import absorb_small
from qupath_bridge.errors import SettingsError
from qupath_bridge.fusion import NODATA, ClassMap
from qupath_bridge.outlines import outline_cells

FULL = np.ones((3, 3), bool)  # a cell and all that touch it
REACH = 4  # steps over cell sides from a cell in the region to the farthest that must have a class
SLIVER = 1e-5  # of the region's area
BAND = 256  # rows


@dataclass(frozen=True)
class PolygonSettings:
    """What of a class map becomes an object.

    min_object_um2: smaller components go to their largest neighbour. min_hole_um2: so do smaller
    ones that a single other one encloses. simplify_um: corners of outlines whose triangle is
    smaller than the square of this are given up; 0 gives up none.
    """

    min_object_um2: float = 200.0
    min_hole_um2: float = 500.0
    simplify_um: float = 1.0

    def __post_init__(self) -> None:
        for name in ("min_object_um2", "min_hole_um2", "simplify_um"):
            if not getattr(self, name) >= 0:  # also catches NaN
                raise SettingsError(f"{name} must not be negative; got {getattr(self, name)}")


@dataclass(frozen=True)
class TracedObject:
    """One connected object of one class.

    outline_m: in model pixels. probability: of its class, and entropy: of all classes'
    probabilities, 0..1, each the mean over its cells of that class.
    """

    code: int
    outline_m: Polygon
    probability: float
    entropy: float


def trace(
    class_map: ClassMap, outline_m: BaseGeometry, model_mpp: float, settings: PolygonSettings
) -> list[TracedObject]:
    """Return the objects of a region's class map, of all classes, by class and place.

    Outlines are valid polygons with their holes. Neighbours share borders without gaps, and
    together the objects fill the region, up to slivers below a cell at its border. Cells whose
    middle is outside of the region have no say, but where a part of the region has no such cell.
    """
    cell_um = model_mpp * class_map.cell_m
    codes = _codes_to_trace(class_map, outline_m, settings, cell_um**2)
    polygons, polygon_codes = outline_cells(codes, settings.simplify_um / cell_um)
    corner_m = np.array([class_map.x_m, class_map.y_m])
    polygons = shapely.transform(polygons, lambda xy: xy * class_map.cell_m + corner_m)
    parts, owner = _clipped(polygons, outline_m, min_area=class_map.cell_m**2)
    parts, part_codes = _in_order(parts, polygon_codes[owner])
    probabilities, entropies = _means(parts, part_codes, class_map).tolist()
    return [
        TracedObject(int(code), part, probability, entropy)
        for code, part, probability, entropy in zip(
            part_codes, parts, probabilities, entropies, strict=True
        )
    ]


def _codes_to_trace(
    class_map: ClassMap, outline_m: BaseGeometry, settings: PolygonSettings, cell_um2: float
) -> np.ndarray:
    """Return codes uint8 [H, W] for every cell that touches the region, and a few beyond."""
    middle_in = _burnt(outline_m, class_map, all_touched=False)
    touched = middle_in | _burnt(outline_m, class_map, all_touched=True)
    apart = touched & ~ndimage.binary_dilation(middle_in, FULL)  # where the region is too thin
    known = middle_in | apart
    codes = absorb_small(
        np.where(known, class_map.codes, np.uint8(NODATA)),
        settings.min_object_um2 / cell_um2,
        settings.min_hole_um2 / cell_um2,
    )
    return _spread(codes, ndimage.binary_dilation(touched, FULL))


def _burnt(outline_m: BaseGeometry, class_map: ClassMap, all_touched: bool) -> np.ndarray:
    """Return which cells have their middle in an outline, or touch it, bool [H, W]."""
    cell = class_map.cell_m
    burnt = rasterio.features.rasterize(
        [outline_m],
        out_shape=class_map.codes.shape,
        transform=rasterio.Affine(cell, 0, class_map.x_m, 0, cell, class_map.y_m),
        all_touched=all_touched,
        dtype=np.uint8,
    )
    return burnt.astype(bool)


def _spread(codes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return codes with wanted cells that have none taking that of the nearest that has one."""
    spread = np.pad(codes, 1, constant_values=NODATA)
    inner = spread[1:-1, 1:-1]
    for _ in range(REACH):
        before = spread.copy()
        sides = (before[:-2, 1:-1], before[1:-1, :-2], before[1:-1, 2:], before[2:, 1:-1])
        for side in sides:
            empty = wanted & (inner == NODATA)
            inner[empty] = side[empty]
    return inner


def _clipped(
    polygons: np.ndarray, outline_m: BaseGeometry, min_area: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the connected parts of polygons in an outline, and the index of each one's polygon.

    Cut-off parts below `min_area`, or below `SLIVER` of the region if that is less, are left out.
    """
    shapely.prepare(outline_m)
    inside = shapely.contains_properly(outline_m, polygons)
    crossing = np.flatnonzero(~inside)
    cut = shapely.intersection(polygons[crossing], outline_m)
    parts, index = shapely.get_parts(cut, return_index=True)
    kept = shapely.area(parts) > min(min_area, SLIVER * outline_m.area)
    return (
        np.concatenate([polygons[inside], parts[kept]]),
        np.concatenate([np.flatnonzero(inside), crossing[index[kept]]]),
    )


def _in_order(parts: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return polygons and codes sorted by code, then from top to bottom, then left to right."""
    x0, y0, x1, y1 = shapely.bounds(parts).T
    order = np.lexsort((shapely.area(parts), x1, y1, x0, y0, codes))
    return parts[order], codes[order]


def _means(parts: np.ndarray, codes: np.ndarray, class_map: ClassMap) -> np.ndarray:
    """Return each part's mean probability and entropy, float64 [2, N].

    Over the cells in it that have its class; where there is no such cell, those of the cell at
    one of its points.
    """
    if not len(parts):
        return np.empty((2, 0))
    cell = class_map.cell_m
    part = rasterio.features.rasterize(
        zip(parts, range(1, len(parts) + 1), strict=True),
        out_shape=class_map.codes.shape,
        transform=rasterio.Affine(cell, 0, class_map.x_m, 0, cell, class_map.y_m),
        dtype=np.int32,
    )
    code_of_part = np.insert(codes, 0, NODATA)  # part 0 is none
    maps = (class_map.probability, class_map.entropy)
    counts, sums = np.zeros(len(parts) + 1), np.zeros((2, len(parts) + 1))
    for top in range(0, len(part), BAND):  # what follows takes 16 bytes a cell
        band = slice(top, top + BAND)
        own = np.where(code_of_part[part[band]] == class_map.codes[band], part[band], 0).ravel()
        counts += np.bincount(own, minlength=len(counts))
        for total, values in zip(sums, maps, strict=True):
            total += np.bincount(own, values[band].ravel(), minlength=len(total))
    means = _at_points(parts, class_map)
    return np.divide(sums[:, 1:], counts[1:], out=means, where=counts[1:] > 0)


def _at_points(parts: np.ndarray, class_map: ClassMap) -> np.ndarray:
    """Return probability and entropy of the cell at one point of each part, float64 [2, N]."""
    points = shapely.get_coordinates(shapely.point_on_surface(parts))
    points -= [class_map.x_m, class_map.y_m]
    columns, rows = (points // class_map.cell_m).astype(np.int64).T
    height, width = class_map.codes.shape
    inside = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    found = (class_map.probability[inside], class_map.entropy[inside])
    return np.stack(found).astype(np.float64)
