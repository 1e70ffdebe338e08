"""One head's class map of a region, band by band -> its objects there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from shapely.geometry.base import BaseGeometry

from model import HeadClass
from qupath_bridge.classmap import ClassMap, MapFrame
from qupath_bridge.glands import GlandBands, GlandClasses, has_borders
from qupath_bridge.polygons import PolygonSettings, TracedObject, Tracer


class HeadTracer:
    """Traces the objects of one head in one region.

    Of a head that knows borders of glands, rows are held until glands that begin in them end.
    """

    def __init__(
        self,
        frame: MapFrame,
        outline_m: BaseGeometry,
        classes: Sequence[HeadClass],
        pixel_um: float,
        settings: PolygonSettings,
    ) -> None:
        self._tracer = Tracer(frame, outline_m, pixel_um, settings)
        self._glands: GlandBands | None = None
        if has_borders(classes):
            cell_um = pixel_um * frame.cell_m
            self._glands = GlandBands(classes, cell_um, settings.min_object_um2)
            self._class_of = GlandClasses.of(classes).class_of

    def take(self, bands: Iterable[ClassMap]) -> None:
        """Take in the next bands of the map, from the top.

        Raises:
            TilingError: too many glands touch one another.
        """
        for band in bands:
            for finished in (band,) if self._glands is None else self._glands.add(band):
                self._tracer.add(finished)

    def objects(self) -> Iterator[TracedObject]:
        """Yield the objects, once, from the top as they are complete; all bands must be there.

        They always come in the same order.

        Raises:
            TilingError: too many glands touch one another.
        """
        if self._glands is None:
            yield from self._tracer.objects()
            return
        for band in self._glands.last():
            self._tracer.add(band)
        for found in self._tracer.objects():
            yield replace(found, code=self._class_of(found.code))
