"""What a cluster's worker does: some bands of one image, or a look at how many tiles it takes.

A worker needs the slides, the model and this package, never QuPath: it knows of no project.
"""

from __future__ import annotations

import pickle
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from threading import Lock
from typing import ParamSpec, TypeVar

from distributed import get_worker

from model import ModelError, find_model, read_card
from qupath_bridge.engine.band_file import packed
from qupath_bridge.engine.spec import PROGRAM, ImageSpec, ModelSpec
from qupath_bridge.engine.sweep import Sweep
from qupath_bridge.errors import EXPECTED_ERRORS, SlideError, TaskError
from qupath_bridge.segment import Engine
from qupath_bridge.slide import Slide, open_slide
from qupath_bridge.wanted import DroppedError

P = ParamSpec("P")
R = TypeVar("R")
KEPT_IMAGES = 4
_at_work = Lock()
"""One task at a time in a process: it has one model, and that has the cores or the GPU."""


@dataclass(frozen=True)
class Refused:
    """A task that a worker cannot do, and perhaps another one can.

    worker: its address. reason: a sentence that names it.
    """

    worker: str
    reason: str


def refusing(task: Callable[P, R]) -> Callable[P, R | Refused]:
    """Return a task that returns a refusal where it would raise an expected error."""

    @wraps(task)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R | Refused:
        try:
            with _at_work:
                return task(*args, **kwargs)
        except EXPECTED_ERRORS as error:
            worker = get_worker().address
            return Refused(worker, f"worker {worker} on {platform.node()}: {error}")

    return wrapped


@refusing
def batch_size(model: ModelSpec) -> int:
    """Return how many tiles this worker's device computes at once."""
    return engine_of(model).batch


@refusing
def compute_bands(image: bytes, first: int, end: int) -> list[bytes]:
    """Return an image's bands from `first` to before `end`, packed; `image` is a pickled ImageSpec.

    Raises:
        DroppedError: nobody waits for them any more.
    """
    spec, sweep = image_of(image)
    engine = engine_of(spec.model)
    bands: list[bytes] = []
    is_wanted = _asker()

    def look(tiles: int) -> None:
        if not is_wanted():
            raise DroppedError

    with opened(spec) as slide:
        computation = engine.computation(slide, sweep, spec.batch)
        computation.run(first, end, lambda band, fused: bands.append(packed(fused)), look)
    return bands


@lru_cache(maxsize=1)
def engine_of(spec: ModelSpec) -> Engine:
    """Return the model as this worker has it; once loaded it stays for the tasks to come.

    Raises:
        ModelError: it is not there, or is another one. TaskError: this program is another one.
    """
    if spec.program != PROGRAM:
        raise TaskError(
            f"it has qupath-pathsegdiff {PROGRAM}, the run is of {spec.program}; install the same"
        )
    folder = find_model(spec.name)
    card = read_card(folder)
    if card.fingerprint != spec.fingerprint:
        raise ModelError(
            f"the model {spec.name} in {folder} is not the one of the run; copy that one there"
        )
    return Engine(folder, card, list(spec.heads), spec.settings)


@lru_cache(maxsize=KEPT_IMAGES)
def image_of(image: bytes) -> tuple[ImageSpec, Sweep]:
    """Return a pickled ImageSpec, and its sweep.

    Raises:
        ModelError, TaskError: see `engine_of`; or its bands are not those that the run has.
    """
    spec: ImageSpec = pickle.loads(image)
    sweep = spec.sweep(engine_of(spec.model))
    if sweep.cuts != spec.bands:
        raise TaskError(f"{spec.path} is cut into other bands; install the run's packages here")
    return spec, sweep


@contextmanager
def opened(spec: ImageSpec) -> Iterator[Slide]:
    """Open an image's file.

    Raises:
        SlideError: it is not there, cannot be read, or is another one.
    """
    path = Path(spec.path)
    if not path.exists():
        raise SlideError(f"{path} is not there; workers need the slides at the very same path")
    with open_slide(path, spec.mpp, spec.size_l0) as slide:
        here = path.stat().st_size
        if here != spec.file_bytes:
            raise SlideError(
                f"{path} has {here} bytes, in the run {spec.file_bytes}; copy the same file there"
            )
        yield slide


def _asker() -> Callable[[], bool]:
    """Return what tells whether somebody still waits for the task that calls this."""
    worker = get_worker()
    key = worker.get_current_task()

    def is_wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state == "executing"

    return is_wanted
