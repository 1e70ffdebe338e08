"""The queue of jobs as a server uses it: take, show, cancel; one child process does them."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from qupath_bridge.clock import now
from qupath_bridge.errors import DiskFullError, JobError
from qupath_bridge.jobs.feeder import Feeder
from qupath_bridge.jobs.folder import JobFolder
from qupath_bridge.jobs.job import Failure, Job
from qupath_bridge.jobs.order import order_of
from qupath_bridge.jobs.request import JobRequest
from qupath_bridge.jobs.store import JobStore
from qupath_bridge.jobs.tidy import clear_strangers, tidy
from qupath_bridge.lock import ProcessLock

MOST_DEATHS = 3
LEAST_FREE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class QueueSettings:
    """How jobs are kept and done.

    home: the folder of the jobs. model: what segments where a request names none, a name or
    folder. longest_queue: of waiting jobs. keep_days, keep_gib: finished jobs older than that are
    cleared, and the oldest while all together take more.
    """

    home: Path
    device: str = "auto"
    model: str = "default"
    longest_queue: int = 200
    keep_days: float = 30
    keep_gib: float = 20


class JobQueue:
    """Jobs that survive whatever happens to the server; safe to use from several threads.

    `resolve` gives the path of an image's URI, if it may be opened. Without `start` jobs are
    taken but not done.

    Raises:
        JobError: another process has the folder, or what it holds cannot be read.
        DiskFullError: the system refused to write.
    """

    def __init__(self, settings: QueueSettings, resolve: Callable[[str], Path]) -> None:
        self._settings, self._resolve = settings, resolve
        self._jobs = settings.home / "jobs"
        self._lock = _locked(settings.home)
        try:
            self._store = JobStore(settings.home / "jobs.sqlite3")
            clear_strangers(self._store, self._jobs)
            self._take_up()
            self._tidy()
        except JobError:
            self._lock.release()
            raise
        self._feeder = Feeder(self._store, settings.home, settings.device, self._tidy)

    def start(self) -> None:
        """Begin to do what is queued."""
        self._feeder.start()

    def stop(self) -> None:
        """End in order: a job that runs goes back to the queue. Nothing can be asked afterwards."""
        self._feeder.stop()
        self._store.close()
        self._lock.release()

    @property
    def ready(self) -> bool:
        """Return whether the next job can begin at once."""
        return self._feeder.is_ready

    @property
    def device(self) -> str:
        """Return what is computed on: "cpu", "cuda:0", ..., or "starting"."""
        return self._feeder.device_found

    def submit(self, request: JobRequest) -> Job:
        """Return the job that a request has become: from now on it is not lost.

        Raises:
            RequestError: there is no such model or head. ImagePathError: an image cannot be opened
            here. QueueFullError: too many jobs are waiting. DiskFullError: it cannot be kept.
        """
        order = order_of(request, self._settings.model, self._resolve)
        self._check_room()
        job = Job(
            id=secrets.token_hex(16),
            kind=request.kind,
            state="queued",
            place=None,
            image_name=request.image.name,
            image_uri=request.image.uri,
            model=order.name,
            heads=tuple(order.heads),
            created=now(),
        )
        folder = JobFolder(self._jobs / job.id)
        order.keep(folder)
        try:
            self._store.add(job, self._settings.longest_queue)
        except JobError:
            folder.remove()
            raise
        self._feeder.wake()
        return self.job(job.id)

    def job(self, job_id: str) -> Job:
        """Return a job as it is now.

        Raises:
            UnknownJobError: there is none of that id.
        """
        return self._with_progress(self._store.job(job_id))

    def jobs(self) -> list[Job]:
        """Return all jobs, newest first."""
        return [self._with_progress(job) for job in self._store.jobs()]

    def cancel(self, job_id: str) -> Job:
        """Cancel a job and return it; one that runs stops within two seconds.

        A finished job stays as it is, and so does one that is done before it could be stopped.

        Raises:
            UnknownJobError: there is none of that id. DiskFullError: that cannot be kept.
        """
        self._store.job(job_id)
        if self._store.cancel_queued(job_id):
            JobFolder(self._jobs / job_id).clear_unfinished()  # of an earlier server
        elif self._store.ask_cancel(job_id):
            self._feeder.wake()
        return self.job(job_id)

    def folder(self, job_id: str) -> JobFolder:
        """Return a job's folder.

        Raises:
            UnknownJobError: there is none of that id.
        """
        return JobFolder(self._jobs / self._store.job(job_id).id)

    def _with_progress(self, job: Job) -> Job:
        running = self._feeder.running
        if job.state != "running" or running is None or running.job_id != job.id:
            return job
        return replace(job, progress=running.progress, warnings=tuple(running.warnings))

    def _take_up(self) -> None:
        """Deal with the jobs that ran when an earlier server died.

        Its death speaks against a job that has not come further since the death before.
        """
        for job_id, deaths, cancelled in self._store.left_running():
            folder = JobFolder(self._jobs / job_id)
            summary = folder.read_summary()
            deaths += not folder.has_advanced()
            if summary is None and not cancelled and deaths < MOST_DEATHS:
                self._store.requeue(job_id, deaths)
                continue
            folder.clear_unfinished()
            finish = partial(self._store.finish, job_id, size_bytes=folder.size_bytes())
            if summary is not None:
                finish("done", warnings=summary["warnings"], result=summary["result"])
            elif cancelled:
                finish("cancelled")
            else:
                finish("failed", error=_DEADLY)

    def _check_room(self) -> None:
        free = shutil.disk_usage(self._jobs).free
        if free < LEAST_FREE_BYTES:
            raise DiskFullError(
                f"the disk of {self._jobs} has {free // 2**20} MiB left, too little for another"
                " job; make room"
            )

    def _tidy(self) -> None:
        tidy(self._store, self._jobs, self._settings.keep_days, self._settings.keep_gib)


_DEADLY = Failure(
    "JobError",
    f"the server ended unexpectedly {MOST_DEATHS} times while it did this job and came no further,"
    " so it is not begun again; try a smaller region, or look into the server's log",
)


def _locked(home: Path) -> ProcessLock:
    """Return the lock on a folder of jobs, which is made if it is not there.

    Raises:
        JobError: another process has it, or the system refused to write.
    """
    lock = ProcessLock(home / "server.lock")
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (home / "jobs").mkdir(mode=0o700, exist_ok=True)
        if lock.take():
            return lock
    except OSError as error:
        raise JobError(
            f"cannot write into {home}, or not lock a file there ({error.strerror or error})"
        ) from error
    raise JobError(
        f"another server has the jobs in {home}: {lock.holder() or 'it left no note of itself'};"
        " use it, or end it first"
    )
