"""One head's scores of a region's tiles -> its objects there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from shapely.geometry.base import BaseGeometry

from model import HeadClass
from qupath_bridge.classmap import ClassMap
from qupath_bridge.fusion import Fuser
from qupath_bridge.glands import GlandBands, GlandClasses, has_borders
from qupath_bridge.polygons import PolygonSettings, TracedObject, Tracer
from qupath_bridge.tiles import Tile, TilePlan


class HeadTracer:
    """Fuses the tiles of a region, row by row, and traces what is finished.

    Of a head that knows borders of glands, rows are held until glands that begin in them end.
    """

    def __init__(
        self,
        plan: TilePlan,
        outline_m: BaseGeometry,
        classes: Sequence[HeadClass],
        model_mpp: float,
        settings: PolygonSettings,
    ) -> None:
        self._fuser = Fuser(plan, outline_m, len(classes))
        self._tracer = Tracer(self._fuser.frame, outline_m, model_mpp, settings)
        self._glands: GlandBands | None = None
        if has_borders(classes):
            cell_um = model_mpp * plan.cell_m
            self._glands = GlandBands(classes, cell_um, settings.min_object_um2)
            self._class_of = GlandClasses.of(classes).class_of

    def add(self, tile: Tile, probabilities: np.ndarray) -> None:
        """Take in one tile's class probabilities, float32 [K, h, w]; tiles come sorted by y.

        Raises:
            TilingError: the tile belongs to an earlier row, or its scores have another shape, or
                too many glands touch one another.
        """
        self._fuser.add(tile, probabilities)
        self._take(self._fuser.bands())

    def objects(self) -> Iterator[TracedObject]:
        """Yield the objects, once, from the top as they are complete; no more tiles may follow.

        They always come in the same order.

        Raises:
            TilingError: too many glands touch one another.
        """
        self._take(self._fuser.last_bands())
        if self._glands is None:
            yield from self._tracer.objects()
            return
        for band in self._glands.last():
            self._tracer.add(band)
        for found in self._tracer.objects():
            yield replace(found, code=self._class_of(found.code))

    def _take(self, bands: Iterable[ClassMap]) -> None:
        for band in bands:
            for finished in (band,) if self._glands is None else self._glands.add(band):
                self._tracer.add(finished)
