"""The page to read first: from a project to its images' detections and class areas.

project -> image -> regions -> tiles -> model -> class map -> polygons -> detections -> areas
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path

from model import HeadClass, find_model, read_card
from qupath_bridge.disk import check_writable
from qupath_bridge.engine.checkpoint import Checkpoint
from qupath_bridge.engine.spool import ObjectSpool
from qupath_bridge.engine.work import Found, ImageWork
from qupath_bridge.errors import EXPECTED_ERRORS, ProjectError
from qupath_bridge.fingerprint import made_from
from qupath_bridge.geometry import Region
from qupath_bridge.measurements import (
    ClassArea,
    ShownDetections,
    annotation_measurements,
    class_areas,
    write_class_areas,
)
from qupath_bridge.overview import Overview
from qupath_bridge.progress import Reporter
from qupath_bridge.project import open_project
from qupath_bridge.project.base import ImageWrite, Project, ProjectClass, ProjectImage
from qupath_bridge.project_lock import writing
from qupath_bridge.regions import RegionsFound, choose_regions, done_anew, with_tissue
from qupath_bridge.report import Outcome, RunReport, write_run_json
from qupath_bridge.segment import Engine, open_image
from qupath_bridge.settings import RunSettings
from qupath_bridge.slide import Slide
from qupath_bridge.store import Made, ResultStore, Scope, StoredResult, digest_of

NEEDED_BYTES = 200 * 2**20


def run_project(path: Path, settings: RunSettings, reporter: Reporter) -> RunReport:
    """Segment a project's images, write what was found, and return what became of each.

    Raises:
        ProjectError, ModelError: the run cannot begin. What goes wrong with one image is in the
            report instead, and the other images go on.
    """
    with opened_for_writing(path, settings, reporter.say) as run:
        report = RunReport()
        try:
            for index, image in enumerate(run.images, start=1):
                report.outcomes.append(run.outcome_of(image, index, reporter))
        except KeyboardInterrupt:
            report.interrupted = True
        if any(o.status != "failed" for o in report.outcomes):
            write_class_areas(run.store.table, run.store.read_class_areas())
            report.table = run.store.table
        write_run_json(run.store.folder, settings, run.engine.card, run.project, report)
    return report


def plan_project(path: Path, settings: RunSettings, say: Callable[[str], None]) -> int:
    """Say what a run would do, image by image; return how many images would fail."""
    failed = 0
    with opened_run(path, settings) as run:
        say(f"{run.project.path}: {run.project.reason}")
        say(f"model {run.engine.card.name}: {', '.join(run.engine.heads)}")
        for image in run.images:
            try:
                say(f"{image.name}: {run.plan_of(image)}")
            except EXPECTED_ERRORS as error:
                failed += 1
                say(f"{image.name}: would fail: {error}")
    return failed


@contextmanager
def opened_for_writing(
    path: Path, settings: RunSettings, say: Callable[[str], None]
) -> Iterator[Run]:
    """As `opened_run`, and keep off other processes that would write the project.

    Raises:
        ProjectError: it cannot be written, or another process is writing it.
    """
    with opened_run(path, settings) as run:
        say(f"{run.project.path}: {run.project.reason}")
        check_writable(run.project.folder, NEEDED_BYTES)
        with writing(run.project.folder, say):
            yield run


@contextmanager
def opened_run(path: Path, settings: RunSettings) -> Iterator[Run]:
    """Open a project, choose its images and look at the model's card; close the project again."""
    folder = find_model(settings.model)
    card = read_card(folder)
    engine = Engine(folder, card, card.choose_heads(settings.heads), settings)
    project = open_project(path, settings.backend)
    try:
        images = _chosen(project.images(), settings.images)
        yield Run(project, images, engine, settings, ResultStore(project.folder))
    finally:
        project.close()


@dataclass(frozen=True)
class Prepared:
    """One image, opened, and what is to be segmented of it; its pixels were not looked at."""

    slide: Slide
    found: RegionsFound
    annotation_ids: list[str]
    made: Made


@dataclass(frozen=True)
class Run:
    """One run over the images of one project."""

    project: Project
    images: list[ProjectImage]
    engine: Engine
    settings: RunSettings
    store: ResultStore

    def outcome_of(self, image: ProjectImage, index: int, reporter: Reporter) -> Outcome:
        """Do one image and return what became of it; only Ctrl-C gets past this."""
        began = time.monotonic()
        outcome = Outcome(image.entry_id, image.name)
        try:
            self._do(image, index, outcome, reporter)
        except EXPECTED_ERRORS as error:
            outcome.fail(str(error))
        except Exception as error:  # one image's trouble must not cost the others their turn
            outcome.fail(f"{type(error).__name__}: {error} (unexpected; please report it)")
        if outcome.status == "failed":
            reporter.say(f"{image.name}: failed: {outcome.message}")
        outcome.seconds = round(time.monotonic() - began, 2)
        return outcome

    def plan_of(self, image: ProjectImage) -> str:
        """Return in words what a run would do with an image."""
        with self._prepared(image) as ready:
            if self._is_done(image, ready.made):
                return "already done, would be skipped"
            work = self._work(ready)
            names = ", ".join(region.name for region in work.regions[:5])
            return f"{len(work.regions)} regions ({names}), {len(work.sweep.tiles)} tiles"

    def _do(self, image: ProjectImage, index: int, outcome: Outcome, reporter: Reporter) -> None:
        with self._prepared(image) as ready:
            outcome.warnings, outcome.regions = ready.found.warnings, len(ready.found.regions)
            for warning in outcome.warnings:
                reporter.say(f"{image.name}: {warning}")
            checkpoint = Checkpoint(self.store.of(image.entry_id) / "checkpoint")
            if self._is_done(image, ready.made):
                outcome.status = "skipped"
                reporter.say(f"{image.name}: already done; --restart does it again")
                if checkpoint.is_of(asdict(ready.made)):
                    checkpoint.remove()  # its run was ended when the image was just done
                return
            work = self._work(ready)
            outcome.regions, outcome.tiles = len(work.regions), len(work.sweep.tiles)
            found = self._found(image, index, work, ready.made, checkpoint, reporter)
            for warning in found.warnings:
                reporter.say(f"{image.name}: {warning}")
            outcome.warnings = [*outcome.warnings, *found.warnings]
            outcome.objects = self._keep(image, ready, work.regions, found.objects)
            checkpoint.remove()

    def _found(
        self,
        image: ProjectImage,
        index: int,
        work: ImageWork,
        made: Made,
        checkpoint: Checkpoint,
        reporter: Reporter,
    ) -> Found:
        """Return what is found in an image, going on where an earlier run stood."""

        def say(text: str) -> None:
            reporter.say(f"{image.name}: {text}")

        begun = checkpoint.begin(
            work.described(made, self.engine.batch), self.settings.restart, say
        )
        done = sum(len(b.tiles) for b in work.sweep.bands if checkpoint.has(b.index))
        if done:
            say(f"goes on where it stood: {done} of {len(work.sweep.tiles)} tiles are done")
        reporter.begin(image.name, index, len(self.images), len(work.sweep.tiles))
        try:
            return work.done(checkpoint, begun["batch"], reporter.advance)
        finally:
            reporter.end()

    def _keep(
        self, image: ProjectImage, ready: Prepared, regions: Sequence[Region], objects: ObjectSpool
    ) -> int:
        """Bring an image's result into the project and the store; only then is it done.

        `objects` are those of all classes. Returns how many of them became detections.
        """
        shown = ShownDetections(objects, self.engine.classes)
        scope = Scope(self.engine.heads, done_anew(regions), ready.annotation_ids)
        mpp = ready.slide.mpp
        new_rows = class_areas(image, regions, objects, self.engine.classes, mpp)
        rows = [*self._kept_rows(image, scope), *new_rows]
        kept = scope.kept_detections(self.store.read_detections(image.entry_id))
        digest = self.store.write_detections(image.entry_id, chain(kept, shown))
        changes = ImageWrite(
            heads=scope.heads,
            region_ids=scope.region_ids,
            detections=shown,
            measurements=annotation_measurements(rows),
            classes=_project_classes(self.engine.classes.values()),
        )
        self.project.write(image, changes)
        self.store.write_result(image.entry_id, StoredResult(ready.made, tuple(rows), digest))
        return sum(row.objects for row in new_rows)

    def _kept_rows(self, image: ProjectImage, scope: Scope) -> list[ClassArea]:
        """Return the class areas of earlier runs that stay."""
        earlier = self.store.read_result(image.entry_id)
        return scope.kept_rows(earlier.rows) if earlier else []

    def _is_done(self, image: ProjectImage, made: Made) -> bool:
        """Return whether an image's stored result is up to date and still in the project."""
        stored = self.store.read_result(image.entry_id)
        if self.settings.restart or stored is None or stored.made != made:
            return False
        if not self.store.detections_path(image.entry_id).exists():
            return False
        in_project = self.project.detection_ids(image)
        return in_project is None or digest_of(in_project) == stored.objects

    @contextmanager
    def _prepared(self, image: ProjectImage) -> Iterator[Prepared]:
        with open_image(image, self.settings) as slide:
            annotations = self.project.read_annotations(image)
            engine, chosen = self.engine, self.settings
            size_l0 = (slide.width, slide.height)
            found = choose_regions(size_l0, annotations, chosen.regions, chosen.region_classes)
            made = made_from(engine.card, engine.heads, chosen, slide, found)
            yield Prepared(slide, found, [annotation.id for annotation in annotations], made)

    def _work(self, ready: Prepared) -> ImageWork:
        """Return what is to be done of an image; now its pixels are looked at."""
        overview = Overview.of(ready.slide)
        regions = with_tissue(ready.found, overview).regions
        return ImageWork.of(self.engine, ready.slide, overview, regions)


def _chosen(images: Sequence[ProjectImage], globs: Sequence[str]) -> list[ProjectImage]:
    chosen = [i for i in images if not globs or any(fnmatchcase(i.name, g) for g in globs)]
    if not chosen:
        names = ", ".join(image.name for image in images[:20])
        raise ProjectError(f"no image is named {' or '.join(globs)}; the project has: {names}")
    return chosen


def _project_classes(heads: Iterable[Sequence[HeadClass]]) -> list[ProjectClass]:
    """Return the classes that make objects, each name once."""
    found = {c.name: ProjectClass(c.name, c.color) for head in heads for c in head if c.detections}
    return list(found.values())
