"""Images' bands computed by the workers of a Dask cluster; only this process writes the project."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from qupath_bridge.engine.checkpoint import Checkpoint
from qupath_bridge.engine.cluster_reach import connected
from qupath_bridge.engine.cluster_task import batch_size, compute_bands
from qupath_bridge.engine.compute import Advance
from qupath_bridge.engine.computer import Begun
from qupath_bridge.engine.dispatch import Dispatcher, Job, Task
from qupath_bridge.engine.fused import FusedBand
from qupath_bridge.engine.spec import ImageSpec, ModelSpec
from qupath_bridge.engine.sweep import Sweep
from qupath_bridge.engine.work import Found
from qupath_bridge.segment import Engine

TASK_ROWS = 16
"""Rows of tiles of a task, at least: the one or two that lead in then cost little."""

MOST_OPEN = 16
"""Images begun and not finished, at most."""


@contextmanager
def opened_cluster(scheduler: str, say: Callable[[str], None]) -> Iterator[OnCluster]:
    """Reach a cluster and have it compute.

    Raises:
        ClusterError: it cannot be reached, or has no worker.
    """
    with connected(scheduler, say) as cluster, Dispatcher(cluster) as dispatcher:
        yield OnCluster(dispatcher)


class OnCluster:
    """Has bands computed by workers, those of the next images while one is finished here."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._batch: int | None = None
        self._arriving: dict[Path, Arriving] = {}

    def batch(self, engine: Engine) -> int:
        """Return how many tiles a worker computes at once, the first one that can say so.

        Raises:
            TaskError: none can. ClusterError: the scheduler is lost.
        """
        if self._batch is None:
            self._batch = engine.settings.batch_size or self._asked(ModelSpec.of(engine))
        return self._batch

    def begin(self, image: Begun) -> None:
        """Have the bands computed that are not there yet."""
        content = pickle.dumps(ImageSpec.of(image.work, image.batch))
        arriving = self._arriving[image.checkpoint.folder] = Arriving(image)
        self._dispatcher.add(
            Task(
                arriving.job,
                (compute_bands, content, bands.start, bands.stop),
                partial(arriving.keep, bands),
            )
            for bands in ranges_of(image.work.sweep, arriving.missing)
        )

    def found(self, image: Begun, advance: Advance) -> Found:
        """Return what is found in an image, traced band by band as they come.

        Raises:
            TaskError: no worker can compute it. ClusterError: the scheduler is lost.
        """
        arriving = self._arriving.pop(image.checkpoint.folder)
        arriving.follow(advance)
        return image.work.done(arriving, image.batch, lambda tiles: None)

    def is_hungry(self, images: int) -> bool:
        return images < MOST_OPEN and self._dispatcher.is_hungry

    def _asked(self, model: ModelSpec) -> int:
        question = Job()
        self._dispatcher.add([Task(question, (batch_size, model), question.told.put)])
        answer = None
        while answer is None:
            answer = question.hear()
        return answer


class Arriving(Checkpoint):
    """A checkpoint into which bands come from elsewhere; those not there yet are waited for."""

    def __init__(self, image: Begun) -> None:
        super().__init__(image.checkpoint.folder)
        bands = image.work.sweep.bands
        self.job = Job()
        self.missing = [b.index for b in bands if image.checkpoint.read(b.index) is None]
        self._tiles = [len(band.tiles) for band in bands]
        self._coming = set(self.missing)
        self._advance: Advance = lambda tiles: None

    def follow(self, advance: Advance) -> None:
        """Tell of tiles done from now on, those first that were there from the beginning."""
        self._advance = advance
        advance(sum(self._tiles) - sum(self._tiles[band] for band in self.missing))

    def read(self, band: int) -> FusedBand | None:
        """Return a band, when it has come.

        Raises:
            Exception: what kept it from being computed, or from being kept.
        """
        while band in self._coming:
            came = self.job.hear()
            if came is not None:
                self._coming.discard(came)
                self._advance(self._tiles[came])
        return super().read(band)

    def keep(self, bands: range, contents: Sequence[bytes]) -> None:
        """Keep bands that have come, packed."""
        for band, content in zip(bands, contents, strict=True):
            self.write_packed(band, content)
            self.job.told.put(band)


def ranges_of(sweep: Sweep, bands: Sequence[int]) -> list[range]:
    """Return bands, ascending, as ranges of consecutive ones, of about TASK_ROWS rows of tiles."""
    found: list[range] = []
    rows = 0
    for band in bands:
        if rows < TASK_ROWS and found and found[-1].stop == band:
            found[-1] = range(found[-1].start, band + 1)
        else:
            found.append(range(band, band + 1))
            rows = 0
        tiles = sweep.bands[band].tiles
        rows += len(set(sweep.rows[tiles.start : tiles.stop]))
    return found
