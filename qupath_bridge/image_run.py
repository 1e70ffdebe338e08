"""One image of a run: begun, computed somewhere, and finished in the project and the store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import chain

from model import HeadClass
from qupath_bridge.engine.checkpoint import Checkpoint
from qupath_bridge.engine.computer import Begun, Computer
from qupath_bridge.engine.spool import ObjectSpool
from qupath_bridge.engine.work import ImageWork
from qupath_bridge.errors import EXPECTED_ERRORS, ClusterError
from qupath_bridge.fingerprint import made_from
from qupath_bridge.geometry import Region
from qupath_bridge.measurements import (
    ClassArea,
    ShownDetections,
    annotation_measurements,
    class_areas,
)
from qupath_bridge.overview import Overview
from qupath_bridge.progress import Reporter
from qupath_bridge.project.base import ImageWrite, Project, ProjectClass, ProjectImage
from qupath_bridge.regions import RegionsFound, choose_regions, done_anew, with_tissue
from qupath_bridge.report import Outcome
from qupath_bridge.segment import Engine, open_image
from qupath_bridge.settings import RunSettings
from qupath_bridge.slide import Slide
from qupath_bridge.store import Made, ResultStore, Scope, StoredResult, digest_of


@dataclass(frozen=True)
class Run:
    """One run over the images of one project."""

    project: Project
    images: list[ProjectImage]
    engine: Engine
    settings: RunSettings
    store: ResultStore


@dataclass(frozen=True)
class Prepared:
    """One image, opened, and what is to be segmented of it; its pixels were not looked at."""

    slide: Slide
    found: RegionsFound
    annotation_ids: list[str]
    made: Made

    def work(self, engine: Engine) -> ImageWork:
        """Return what is to be done of an image; now its pixels are looked at."""
        overview = Overview.of(self.slide)
        regions = with_tissue(self.found, overview).regions
        return ImageWork.of(engine, self.slide, overview, regions)


class ImageRun:
    """One image of a run: `begin`, then `finish`; what goes wrong stands in its outcome.

    Of these two only Ctrl-C gets past, and the loss of a cluster. Between them the image's file
    is open: a context manager closes it.
    """

    def __init__(self, run: Run, image: ProjectImage, reporter: Reporter) -> None:
        self.outcome = Outcome(image.entry_id, image.name)
        self._run, self._image, self._reporter = run, image, reporter
        self._checkpoint = Checkpoint(run.store.of(image.entry_id) / "checkpoint")
        self._open = ExitStack()
        self._ready: Prepared | None = None
        self._begun: Begun | None = None
        self._began = time.monotonic()

    def begin(self, computer: Computer) -> None:
        """Look at the image and, unless it is done already, have its computing begun."""
        with self._failure_told():
            self._ready = ready = self._open.enter_context(prepared(self._run, self._image))
            self.outcome.regions = len(ready.found.regions)
            self._warn(ready.found.warnings)
            if is_done(self._run, self._image, ready.made):
                self.outcome.status = "skipped"
                self._say("already done; --restart does it again")
                if self._checkpoint.is_of(asdict(ready.made)):
                    self._checkpoint.remove()  # its run was ended when the image was just done
                self._open.close()
            else:
                self._begun = self._checkpointed(ready, computer)
                computer.begin(self._begun)

    def finish(self, computer: Computer) -> Outcome:
        """Wait for what is found, bring it into the project; return what became of the image."""
        with self._open, self._failure_told():
            if self._begun and self._ready:
                self._finish(self._begun, self._ready, computer)
        self.outcome.seconds = round(time.monotonic() - self._began, 2)
        return self.outcome

    def close(self) -> None:
        """Let go of an image that is not finished."""
        self._open.close()

    def _finish(self, begun: Begun, ready: Prepared, computer: Computer) -> None:
        index, count = self._run.images.index(self._image) + 1, len(self._run.images)
        self._reporter.begin(self._image.name, index, count, len(begun.work.sweep.tiles))
        try:
            found = computer.found(begun, self._reporter.advance)
        finally:
            self._reporter.end()
        self._warn(found.warnings)
        self.outcome.objects = self._keep(ready, begun.work.regions, found.objects)
        begun.checkpoint.remove()

    def _checkpointed(self, ready: Prepared, computer: Computer) -> Begun:
        """Return the image's work, going on where an earlier run stood."""
        engine, work = self._run.engine, ready.work(self._run.engine)
        tiles = len(work.sweep.tiles)
        self.outcome.regions, self.outcome.tiles = len(work.regions), tiles
        checkpoint = self._checkpoint
        described = work.described(ready.made, computer.batch(engine))
        in_force = checkpoint.begin(described, self._run.settings.restart, self._say)
        done = sum(len(b.tiles) for b in work.sweep.bands if checkpoint.has(b.index))
        if done:
            self._say(f"goes on where it stood: {done} of {tiles} tiles are done")
        return Begun(self._image.name, work, checkpoint, in_force["batch"])

    def _keep(self, ready: Prepared, regions: Sequence[Region], objects: ObjectSpool) -> int:
        """Bring an image's result into the project and the store; only then is it done.

        `objects` are those of all classes. Returns how many of them became detections.
        """
        run, image = self._run, self._image
        classes = run.engine.classes
        shown = ShownDetections(objects, classes)
        scope = Scope(run.engine.heads, done_anew(regions), ready.annotation_ids)
        new_rows = class_areas(image, regions, objects, classes, ready.slide.mpp)
        rows = [*self._kept_rows(scope), *new_rows]
        kept = scope.kept_detections(run.store.read_detections(image.entry_id))
        digest = run.store.write_detections(image.entry_id, chain(kept, shown))
        changes = ImageWrite(
            heads=scope.heads,
            region_ids=scope.region_ids,
            detections=shown,
            measurements=annotation_measurements(rows),
            classes=_project_classes(classes.values()),
        )
        run.project.write(image, changes)
        run.store.write_result(image.entry_id, StoredResult(ready.made, tuple(rows), digest))
        return sum(row.objects for row in new_rows)

    def _kept_rows(self, scope: Scope) -> list[ClassArea]:
        """Return the class areas of earlier runs that stay."""
        earlier = self._run.store.read_result(self._image.entry_id)
        return scope.kept_rows(earlier.rows) if earlier else []

    def _say(self, text: str) -> None:
        self._reporter.say(f"{self._image.name}: {text}")

    def _warn(self, warnings: Sequence[str]) -> None:
        self.outcome.warnings = [*self.outcome.warnings, *warnings]
        for warning in warnings:
            self._say(warning)

    @contextmanager
    def _failure_told(self) -> Iterator[None]:
        try:
            yield
        except ClusterError:
            raise
        except EXPECTED_ERRORS as error:
            self._fail(str(error))
        except Exception as error:  # one image's trouble must not cost the others their turn
            self._fail(f"{type(error).__name__}: {error} (unexpected; please report it)")

    def _fail(self, message: str) -> None:
        self._begun = None
        self.outcome.fail(message)
        self._say(f"failed: {message}")


@contextmanager
def prepared(run: Run, image: ProjectImage) -> Iterator[Prepared]:
    """Open an image of a run and choose its regions.

    Raises:
        SlideError, RegionError: the image, or what is drawn on it, is of no use.
    """
    with open_image(image, run.settings) as slide:
        annotations = run.project.read_annotations(image)
        engine, chosen = run.engine, run.settings
        size_l0 = (slide.width, slide.height)
        found = choose_regions(size_l0, annotations, chosen.regions, chosen.region_classes)
        made = made_from(engine.card, engine.heads, chosen, slide, found)
        yield Prepared(slide, found, [annotation.id for annotation in annotations], made)


def is_done(run: Run, image: ProjectImage, made: Made) -> bool:
    """Return whether an image's stored result is up to date and still in the project."""
    stored = run.store.read_result(image.entry_id)
    if run.settings.restart or stored is None or stored.made != made:
        return False
    if not run.store.detections_path(image.entry_id).exists():
        return False
    in_project = run.project.detection_ids(image)
    return in_project is None or digest_of(in_project) == stored.objects


def plan_of(run: Run, image: ProjectImage) -> str:
    """Return in words what a run would do with an image.

    Raises:
        SlideError, RegionError: it would fail.
    """
    with prepared(run, image) as ready:
        if is_done(run, image, ready.made):
            return "already done, would be skipped"
        work = ready.work(run.engine)
        names = ", ".join(region.name for region in work.regions[:5])
        return f"{len(work.regions)} regions ({names}), {len(work.sweep.tiles)} tiles"


def _project_classes(heads: Iterable[Sequence[HeadClass]]) -> list[ProjectClass]:
    """Return the classes that make objects, each name once."""
    found = {c.name: ProjectClass(c.name, c.color) for head in heads for c in head if c.detections}
    return list(found.values())
