"""Fused bands -> the objects of all regions and heads, written away as they are complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model import HeadClass
from qupath_bridge.classmap import MapFrame
from qupath_bridge.engine.fused import FusedBand
from qupath_bridge.engine.spool import ObjectSpool
from qupath_bridge.engine.sweep import Sweep
from qupath_bridge.geometry import Region, Scale
from qupath_bridge.heads import HeadTracer
from qupath_bridge.measurements import make_detections
from qupath_bridge.polygons import PolygonSettings
from qupath_bridge.slide import Slide


@dataclass(frozen=True)
class Traced:
    """What is needed to make objects of the bands of one image."""

    slide: Slide
    scale: Scale
    sweep: Sweep
    regions: Sequence[Region]
    classes: Mapping[str, Sequence[HeadClass]]
    settings: PolygonSettings
    model_mpp: float


class SweepTracer:
    """Takes the bands of a sweep, in order, and spools the objects of each region at its end."""

    def __init__(self, image: Traced, spool: ObjectSpool) -> None:
        self._image, self._spool = image, spool
        self._tracers: dict[tuple[int, str], HeadTracer] = {}

    def take(self, band: int, fused: FusedBand) -> None:
        """Take in the next band."""
        for (region, head), maps in fused.maps.items():
            tracer = self._tracer(region, head)
            tracer.take(maps)
            if self._image.sweep.last_band[region] == band:
                del self._tracers[region, head]
                self._write(region, head, tracer)

    def _tracer(self, region: int, head: str) -> HeadTracer:
        known = self._tracers.get((region, head))
        if known is None:
            image = self._image
            outline_m = image.sweep.outlines_m[region]
            known = self._tracers[region, head] = HeadTracer(
                MapFrame.around(outline_m, image.sweep.plan.cell_m),
                outline_m,
                image.classes[head],
                image.model_mpp,
                image.settings,
            )
        return known

    def _write(self, region: int, head: str, tracer: HeadTracer) -> None:
        image = self._image
        found = make_detections(
            tracer.objects(),
            image.scale,
            image.slide.mpp,
            head,
            image.regions[region],
            image.classes[head],
        )
        self._spool.append(region, list(image.classes).index(head), found)
