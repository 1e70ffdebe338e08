"""One head's class map of a region, band by band -> its objects there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from shapely.geometry.base import BaseGeometry

from model import HeadClass
from qupath_bridge.classmap import ClassMap, MapFrame, stacked
from qupath_bridge.glands import has_borders, with_whole_glands
from qupath_bridge.polygons import PolygonSettings, TracedObject, Tracer, in_order


class HeadTracer:
    """Traces the objects of one head in one region.

    Only a head that knows borders of glands needs the whole map: its bands are kept until the
    last.
    """

    def __init__(
        self,
        frame: MapFrame,
        outline_m: BaseGeometry,
        classes: Sequence[HeadClass],
        model_mpp: float,
        settings: PolygonSettings,
    ) -> None:
        self._classes, self._settings = classes, settings
        self._cell_um = model_mpp * frame.cell_m
        self._tracer = Tracer(frame, outline_m, model_mpp, settings)
        self._kept: list[ClassMap] | None = [] if has_borders(classes) else None

    def take(self, bands: Iterable[ClassMap]) -> None:
        """Take in the next bands of the map, from the top."""
        for band in bands:
            if self._kept is None:
                self._tracer.add(band)
            else:
                self._kept.append(band)

    def objects(self) -> list[TracedObject]:
        """Return the objects, once, by class and place; all bands must be there.

        Raises:
            TilingError: too many glands touch one another.
        """
        if self._kept is None:
            return in_order(self._tracer.objects())
        class_map, self._kept = stacked(self._kept), []
        class_map, codes = with_whole_glands(
            class_map, self._classes, self._cell_um, self._settings.min_object_um2
        )
        self._tracer.add(class_map)
        found = in_order(self._tracer.objects())
        return [replace(o, code=codes[o.code]) for o in found]
