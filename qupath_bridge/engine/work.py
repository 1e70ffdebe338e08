"""One image's work: from its regions to objects on disk, computed or taken from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qupath_bridge.detections import Detection
from qupath_bridge.engine.checkpoint import Checkpoint
from qupath_bridge.engine.compute import Advance
from qupath_bridge.engine.fused import FusedBand
from qupath_bridge.engine.heap import give_back, give_back_all
from qupath_bridge.engine.spool import ObjectSpool
from qupath_bridge.engine.sweep import Sweep
from qupath_bridge.engine.tracing import SweepTracer
from qupath_bridge.errors import SlideError
from qupath_bridge.geometry import Region
from qupath_bridge.overview import Overview
from qupath_bridge.segment import Engine
from qupath_bridge.slide import Slide
from qupath_bridge.store import Made

MOST_UNDECODABLE = 0.01


@dataclass(frozen=True)
class Found:
    """An image's objects, those of silent classes too, and what the user should know."""

    objects: ObjectSpool
    warnings: list[str]


@dataclass(frozen=True)
class ImageWork:
    """One image, opened, and what is to be done of it."""

    engine: Engine
    slide: Slide
    regions: Sequence[Region]
    sweep: Sweep

    @classmethod
    def of(
        cls, engine: Engine, slide: Slide, overview: Overview, regions: Sequence[Region]
    ) -> ImageWork:
        """Return the work that regions of a slide are."""
        give_back()  # what opening the slide and finding its tissue took
        return cls(engine, slide, regions, engine.sweep(slide, overview, regions))

    def described(self, made: Made, batch: int) -> dict[str, Any]:
        """Return what bands depend on: what the result does, how they are cut and computed."""
        settings = self.engine.settings
        asked = {"device": settings.device, "precision": settings.precision}
        return {"made": asdict(made), "bands": self.sweep.cuts, **asked, "batch": batch}

    def done(self, checkpoint: Checkpoint, batch: int, advance: Advance) -> Found:
        """Return what all heads find, spooled in the checkpoint's folder.

        Bands that the checkpoint has are not computed again, and those that are, are kept there.

        Raises:
            SlideError: the slide cannot be read. ModelError: the model cannot be loaded.
            ProjectError: the system refused to write.
        """
        give_back_all()  # what finding the tiles took, and a large TIFF's index
        bands = self.sweep.bands
        collector = _Collector(self, checkpoint)
        band = 0
        while band < len(bands):
            kept = checkpoint.read(band)
            if kept is not None:
                collector.take(band, kept)
                advance(len(bands[band].tiles))
                band += 1
                continue
            end = next((b for b in range(band + 1, len(bands)) if checkpoint.has(b)), len(bands))
            computation = self.engine.computation(self.slide, self.sweep, batch)
            computation.run(band, end, collector.keep, advance)
            band = end
        return collector.found()


class _Collector:
    """Takes finished bands in order, and makes objects of them."""

    def __init__(self, work: ImageWork, checkpoint: Checkpoint) -> None:
        self._spool = ObjectSpool(checkpoint.folder / "objects")
        self._work, self._checkpoint = work, checkpoint
        self._tracer = SweepTracer(work, self._spool)
        self._undecodable = 0
        self._damaged: list[int] = []

    def found(self) -> Found:
        """Return what was found in all bands."""
        count, tiles = self._undecodable, len(self._work.sweep.tiles)
        lost = f"{count} of {tiles} tiles could not be decoded and were left without a class"
        return Found(self._spool, [lost] if count else [])

    def keep(self, band: int, fused: FusedBand) -> None:
        """Take a band, and keep it on disk."""
        self._checkpoint.write(band, fused)
        self.take(band, fused)

    def take(self, band: int, fused: FusedBand) -> None:
        """Take a band."""
        self._count_undecodable(band, fused.undecodable)
        self._tracer.take(band, fused)

    def _count_undecodable(self, band: int, count: int) -> None:
        """Count a band's tiles that could not be decoded, and give up where there are too many.

        Then such bands are not kept: a copy of the slide in its place may well have the same size
        and time, and a disk that failed may work again.
        """
        tiles = len(self._work.sweep.tiles)
        self._undecodable += count
        if count:
            self._damaged.append(band)
        if self._undecodable > MOST_UNDECODABLE * tiles:
            for damaged in self._damaged:
                self._checkpoint.drop(damaged)
            raise SlideError(
                f"{self._work.slide.path} is damaged: {self._undecodable} of {tiles} tiles could"
                f" not be decoded, more than {MOST_UNDECODABLE:.0%}; copy the file again"
            )


def segment(
    engine: Engine, slide: Slide, regions: Sequence[Region], advance: Advance
) -> list[Detection]:
    """Return what all heads find in the regions, the objects of silent classes too.

    All at once, and without a trace on disk: for what is small. `advance` is told of tiles done.

    Raises:
        SlideError: the slide cannot be read. ModelError: the model cannot be loaded.
    """
    with TemporaryDirectory(prefix="pathsegdiff-") as folder:
        work = ImageWork.of(engine, slide, Overview.of(slide), regions)
        return list(work.done(Checkpoint(Path(folder)), engine.batch, advance).objects)
