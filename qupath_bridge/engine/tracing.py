"""Fused bands -> the objects of all regions and heads, written away as they are complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qupath_bridge.classmap import MapFrame
from qupath_bridge.engine.fused import FusedBand
from qupath_bridge.engine.spool import ObjectSpool
from qupath_bridge.heads import HeadTracer
from qupath_bridge.measurements import make_detections

if TYPE_CHECKING:
    from qupath_bridge.engine.work import ImageWork


class SweepTracer:
    """Takes the bands of a sweep, in order, and spools the objects of each region at its end."""

    def __init__(self, work: ImageWork, spool: ObjectSpool) -> None:
        self._work, self._spool = work, spool
        self._tracers: dict[tuple[int, str], HeadTracer] = {}

    def take(self, band: int, fused: FusedBand) -> None:
        """Take in the next band."""
        for (region, head), maps in fused.maps.items():
            tracer = self._tracer(region, head)
            tracer.take(maps)
            if self._work.sweep.last_band[region] == band:
                del self._tracers[region, head]
                self._write(region, head, tracer)

    def _tracer(self, region: int, head: str) -> HeadTracer:
        known = self._tracers.get((region, head))
        if known is None:
            engine, sweep = self._work.engine, self._work.sweep
            outline_m = sweep.outlines_m[region]
            known = self._tracers[region, head] = HeadTracer(
                MapFrame.around(outline_m, sweep.plan.cell_m),
                outline_m,
                engine.classes[head],
                engine.card.mpp,
                engine.polygon_settings,
            )
        return known

    def _write(self, region: int, head: str, tracer: HeadTracer) -> None:
        work, engine = self._work, self._work.engine
        found = make_detections(
            tracer.objects(),
            engine.scale(work.slide),
            work.slide.mpp,
            head,
            work.regions[region],
            engine.classes[head],
        )
        self._spool.append(region, engine.heads.index(head), found)
