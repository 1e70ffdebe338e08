"""Class map -> the outlines of its connected objects, clipped to the region."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from qupath_bridge.classmap import STEPS, ClassMap, MapFrame
from qupath_bridge.clipping import clipped
from qupath_bridge.components import ComponentGraph
from qupath_bridge.errors import SettingsError, TilingError
from qupath_bridge.outlines import Outlined, outlined
from qupath_bridge.packed import PackedStrips, packed
from qupath_bridge.rim import id_strips
from qupath_bridge.strips import StripBuffer, framed, strip_rows
from qupath_bridge.wanted import check_wanted


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
    probabilities, 0..1, each the mean over its cells of that class; of all of it, where the region
    cuts it in parts.
    """

    code: int
    outline_m: Polygon
    probability: float
    entropy: float


class Tracer:
    """Traces the objects of a region from the bands of its class map, from the top.

    What it holds is the graph of components and packed runs of cells, on disk once they are many,
    until all bands are there; then the outlines that are not complete. It works in strips of its
    own, so the bands may have any height.
    """

    def __init__(
        self,
        frame: MapFrame,
        outline_m: BaseGeometry,
        pixel_um: float,
        settings: PolygonSettings,
    ) -> None:
        cell_um = pixel_um * frame.cell_m
        self._frame, self._outline_m = framed(frame), outline_m
        self._tolerance_cells = settings.simplify_um / cell_um
        self._buffer = StripBuffer(frame, strip_rows(frame.width))
        self._graph = ComponentGraph(
            settings.min_object_um2 / cell_um**2, settings.min_hole_um2 / cell_um**2
        )
        self._strips = PackedStrips()

    def add(self, band: ClassMap) -> None:
        """Take in the next rows of the map."""
        for strip in self._buffer.add(band):
            self._strips.append(packed(strip, self._outline_m, self._frame, self._graph))

    def objects(self) -> Iterator[TracedObject]:
        """Yield the objects, once, from the top, as they are complete; always in one order.

        Raises:
            TilingError: bands are missing.
        """
        if self._strips.rows != self._frame.height:
            raise TilingError(
                f"{self._strips.rows} of the map's {self._frame.height} rows came; trace all bands"
            )
        return self._objects()

    def _objects(self) -> Iterator[TracedObject]:
        absorbed = self._graph.absorbed()
        strips = id_strips(self._strips.taken(), self._frame.width, absorbed)
        for found in outlined(strips, absorbed, self._tolerance_cells):
            yield from self._clipped(found)
        shapely.destroy_prepared(self._outline_m)  # cutting made an index of it, larger than it

    def _clipped(self, found: Outlined) -> Iterator[TracedObject]:
        cell_m = self._frame.cell_m
        corner_m = np.array([self._frame.x_m, self._frame.y_m])
        polygons = shapely.transform(found.polygons, lambda xy: xy * cell_m + corner_m)
        parts, owner = clipped(polygons, self._outline_m, min_area=cell_m**2)
        codes, means = found.codes[owner].tolist(), (found.means.T[owner] / STEPS).tolist()
        for code, part, (probability, entropy) in zip(codes, parts, means, strict=True):
            check_wanted()
            yield TracedObject(code, part, probability, entropy)


def trace(
    class_map: ClassMap, outline_m: BaseGeometry, pixel_um: float, settings: PolygonSettings
) -> list[TracedObject]:
    """Return the objects of a region's class map, of all classes, by class and place.

    Outlines are valid polygons with their holes. Neighbours share borders without gaps, and
    together the objects fill the region, up to slivers below a cell at its border. Cells whose
    middle is outside of the region have no say, but where a part of the region has no such cell.
    """
    return trace_bands([class_map], class_map.frame, outline_m, pixel_um, settings)


def trace_bands(
    bands: Iterable[ClassMap],
    frame: MapFrame,
    outline_m: BaseGeometry,
    pixel_um: float,
    settings: PolygonSettings,
) -> list[TracedObject]:
    """Return what `trace` does, of a map that comes in bands, from the top."""
    tracer = Tracer(frame, outline_m, pixel_um, settings)
    for band in bands:
        tracer.add(band)
    return in_order(tracer.objects())


def in_order(objects: Iterable[TracedObject]) -> list[TracedObject]:
    """Return objects sorted by code, then from top to bottom, then left to right."""
    found = list(objects)
    if not found:
        return []
    outlines = np.array([o.outline_m for o in found], dtype=object)
    x0, y0, x1, y1 = shapely.bounds(outlines).T
    order = np.lexsort((shapely.area(outlines), x1, y1, x0, y0, [o.code for o in found]))
    return [found[i] for i in order]
