"""The page to read first: from a project to its images' detections and class areas.

project -> image -> regions -> tiles -> model -> class map -> polygons -> detections -> areas
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from model import find_model, read_card
from qupath_bridge.disk import check_writable
from qupath_bridge.engine.computer import Computer, opened_computer
from qupath_bridge.errors import EXPECTED_ERRORS, ClusterError, ProjectError
from qupath_bridge.image_run import ImageRun, Run, plan_of
from qupath_bridge.measurements import write_class_areas
from qupath_bridge.progress import Reporter
from qupath_bridge.project import open_project
from qupath_bridge.project.base import ProjectImage
from qupath_bridge.project_lock import writing
from qupath_bridge.report import Outcome, RunReport, write_run_json
from qupath_bridge.segment import Engine
from qupath_bridge.settings import RunSettings
from qupath_bridge.store import ResultStore

NEEDED_BYTES = 200 * 2**20


def run_project(path: Path, settings: RunSettings, reporter: Reporter) -> RunReport:
    """Segment a project's images, write what was found, and return what became of each.

    Raises:
        ProjectError, ModelError, ClusterError: the run cannot begin. What goes wrong with one
            image is in the report instead, and the other images go on.
    """
    with (
        opened_for_writing(path, settings, reporter.say) as run,
        opened_computer(settings, reporter.say) as computer,
    ):
        report = RunReport()
        try:
            report.outcomes.extend(outcomes(run, computer, reporter))
        except KeyboardInterrupt:
            report.interrupted = True
        except ClusterError as error:
            report.ended = str(error)
        if any(o.status != "failed" for o in report.outcomes):
            write_class_areas(run.store.table, run.store.read_class_areas())
            report.table = run.store.table
        write_run_json(run.store.folder, settings, run.engine.card, run.project, report)
    return report


def outcomes(run: Run, computer: Computer, reporter: Reporter) -> Iterator[Outcome]:
    """Do the images of a run; yield, in order, what became of each.

    Images are begun ahead where the computer has hands free for them.

    Raises:
        ClusterError: the cluster is lost, and with it all that is not done yet.
    """
    waiting: deque[ImageRun] = deque()
    try:
        for image in run.images:
            waiting.append(ImageRun(run, image, reporter))
            waiting[-1].begin(computer)
            while waiting and not computer.is_hungry(len(waiting)):
                yield waiting[0].finish(computer)
                waiting.popleft()
        while waiting:
            yield waiting[0].finish(computer)
            waiting.popleft()
    finally:
        for begun in waiting:
            begun.close()


def plan_project(path: Path, settings: RunSettings, say: Callable[[str], None]) -> int:
    """Say what a run would do, image by image; return how many images would fail."""
    failed = 0
    with opened_run(path, settings) as run:
        say(f"{run.project.path}: {run.project.reason}")
        say(f"model {run.engine.card.name}: {', '.join(run.engine.heads)}")
        for image in run.images:
            try:
                say(f"{image.name}: {plan_of(run, image)}")
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


def _chosen(images: Sequence[ProjectImage], globs: Sequence[str]) -> list[ProjectImage]:
    chosen = [i for i in images if not globs or any(fnmatchcase(i.name, g) for g in globs)]
    if not chosen:
        names = ", ".join(image.name for image in images[:20])
        raise ProjectError(f"no image is named {' or '.join(globs)}; the project has: {names}")
    return chosen
