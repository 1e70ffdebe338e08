"""Fused bands -> the objects of all regions and heads, written away as they are complete."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from qupath_bridge.classmap import MapFrame
from qupath_bridge.detections import TakenIds
from qupath_bridge.engine.fused import FusedBand
from qupath_bridge.engine.spool import ObjectSpool
from qupath_bridge.heads import HeadTracer
from qupath_bridge.measurements import make_detections

if TYPE_CHECKING:
    from qupath_bridge.engine.work import ImageWork


class SweepTracer:
    """Takes the bands of a sweep, in order, and spools the objects of each part at its end."""

    def __init__(self, work: ImageWork, spool: ObjectSpool) -> None:
        self._work, self._spool = work, spool
        self._tracers: dict[tuple[int, str], HeadTracer] = {}
        self._taken: dict[tuple[int, str], TakenIds] = defaultdict(TakenIds)

    def take(self, band: int, fused: FusedBand) -> None:
        """Take in the next band."""
        for (part, head), maps in fused.maps.items():
            tracer = self._tracer(part, head)
            tracer.take(maps)
            if self._work.sweep.last_band[part] == band:
                del self._tracers[part, head]
                self._write(self._work.sweep.parts[part].region, head, tracer)

    def _tracer(self, part: int, head: str) -> HeadTracer:
        known = self._tracers.get((part, head))
        if known is None:
            engine, sweep, slide = self._work.engine, self._work.sweep, self._work.slide
            outline_m = sweep.parts[part].outline_m
            known = self._tracers[part, head] = HeadTracer(
                MapFrame.around(outline_m, sweep.plan.cell_m),
                outline_m,
                engine.classes[head],
                engine.scale(slide).pixel_um(slide.mpp),
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
            self._taken[region, head],
        )
        self._spool.append(region, engine.heads.index(head), found)
