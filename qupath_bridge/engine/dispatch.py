"""Tasks go out to a cluster's workers, results come in: a thread for both."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any

from distributed import Future, KilledWorker

from qupath_bridge.engine.cluster import PATIENCE_S, Cluster, Workers
from qupath_bridge.engine.cluster_task import Refused
from qupath_bridge.errors import ClusterError, TaskError

AHEAD = 3
"""Tasks that each worker has, so that it never waits for the next one."""

LOOK_S = 1.0


@dataclass
class Job:
    """Something that some tasks do together, as one image.

    told: numbers of which the rest learns, or what went wrong. refused: what workers said that
    cannot do it.
    """

    told: SimpleQueue[int | Exception] = field(default_factory=SimpleQueue)
    refused: dict[str, str] = field(default_factory=dict)
    is_over: bool = False

    def fail(self, error: Exception) -> None:
        self.is_over = True
        self.told.put(error)

    def hear(self) -> int | None:
        """Return the next number, waiting a while for it; None if there is none yet.

        Raises:
            Exception: what went wrong.
        """
        try:
            told = self.told.get(timeout=LOOK_S)
        except Empty:
            return None
        if isinstance(told, Exception):
            raise told
        return told


@dataclass(frozen=True)
class Task:
    """A call of a function that a worker makes, and what takes its result.

    workers: those that may do it, once it is given to them.
    """

    job: Job
    call: tuple[Any, ...]
    keep: Callable[[Any], None]
    workers: Workers | None = None


class Dispatcher:
    """A thread that has a cluster do tasks; a context manager, which drops what is not done."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._jobs: dict[int, Job] = {}
        self._waiting: deque[Task] = deque()
        self._running: dict[Future, Task] = {}
        self._ended: SimpleQueue[Future | None] = SimpleQueue()
        self._error: ClusterError | None = None
        self._stopping = False
        self._workers, self._seen = cluster.look(), monotonic()
        self._thread = Thread(target=self._run, name="dispatch", daemon=True)

    def add(self, tasks: Iterable[Task]) -> None:
        """Have tasks done, after those that were added before."""
        for task in tasks:
            self._jobs[id(task.job)] = task.job
            self._waiting.append(task)
        self._ended.put(None)
        self._tell_all()

    @property
    def is_hungry(self) -> bool:
        """Return whether more tasks would be welcome."""
        wanted = 2 * AHEAD * max(1, len(self._workers.addresses))
        return len(self._waiting) + len(self._running) < wanted

    def __enter__(self) -> Dispatcher:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stopping = True
        self._ended.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._look()
                self._top_up()
                self._take_ended()
            self._cluster.cancel(self._running)
        except ClusterError as error:
            self._error = error
        except Exception as error:  # nobody else would hear of it
            self._error = ClusterError(f"{type(error).__name__}: {error}; please report it")
        self._tell_all()

    def _tell_all(self) -> None:
        """Tell everyone who may wait of what ended all."""
        if self._error:
            for job in list(self._jobs.values()):
                job.fail(self._error)

    def _look(self) -> None:
        """See which workers there are; what waits for one that is gone is given to others."""
        self._workers, now = self._cluster.look(), monotonic()
        if self._workers.addresses:
            self._seen = now
        elif now - self._seen > PATIENCE_S:
            raise self._cluster.deserted()
        here = set(self._workers.addresses)
        for future, task in list(self._running.items()):
            if task.workers and task.workers.chosen and here.isdisjoint(task.workers.addresses):
                self._drop([future])
                self._waiting.appendleft(task)

    def _top_up(self) -> None:
        while self._waiting and len(self._running) < AHEAD * len(self._workers.addresses):
            task = self._waiting.popleft()
            job, able = task.job, self._workers.without(task.job.refused)
            if job.is_over:
                continue
            if not able.addresses:
                job.fail(TaskError(f"no worker can do it: {'; '.join(job.refused.values())}"))
                continue
            future = self._cluster.submit(able, *task.call)
            self._running[future] = replace(task, workers=able)
            future.add_done_callback(self._ended.put)

    def _take_ended(self) -> None:
        """Take in what has ended, waiting for something for a while."""
        try:
            future = self._ended.get(timeout=LOOK_S)
        except Empty:
            return
        task = self._running.pop(future, None) if future else None
        if future and task and not task.job.is_over:
            self._take(future, task)

    def _take(self, future: Future, task: Task) -> None:
        job = task.job
        try:
            found = self._cluster.result(future)
            if isinstance(found, Refused):
                job.refused[found.worker] = found.reason
                self._waiting.appendleft(task)
            else:
                task.keep(found)
        except ClusterError:
            raise
        except KilledWorker:
            self._fail(job, TaskError(_KILLED))
        except Exception as error:  # told where the image's turn is
            self._cluster.check()
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        job.fail(error)
        self._drop([future for future, task in self._running.items() if task.job is job])

    def _drop(self, futures: Sequence[Future]) -> None:
        for future in futures:
            del self._running[future]
        self._cluster.cancel(futures)


_KILLED = (
    "each worker that computed a part of it was killed; look into the workers' logs: memory may"
    " be short, and a smaller --batch-size takes less"
)
