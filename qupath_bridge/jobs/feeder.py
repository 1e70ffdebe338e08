"""One job after the other to the child process, and whatever becomes of either is dealt with."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from qupath_bridge.errors import DiskFullError
from qupath_bridge.jobs.child import LOG, Child, Heard, end_orphan
from qupath_bridge.jobs.folder import JobFolder
from qupath_bridge.jobs.job import Failure, Job, Progress
from qupath_bridge.jobs.store import JobStore

GRACE_S = 1.2
"""How long a child that was asked to stop has until it is killed."""
RETRY_S = 1.0
CANNOT_START = "the process that computes cannot be started"
REPORT = "unexpected; please report it"
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass
class Running:
    """The job that runs: how far it is, and what it warned of.

    begun, since: how far this stage was when it was first heard of, and when; last: of any stage.
    """

    job_id: str
    stage: str = "loading the model"
    done: int = 0
    total: int | None = None
    begun: int = 0
    since: float = 0.0
    last: float = 0.0
    warnings: list[str] = field(default_factory=list)
    failure: Failure | None = None
    ended: bool = False

    def hear(self, said: Mapping[str, Any]) -> None:
        """Take in what the child said of this job."""
        if "stage" in said:
            is_new = said["stage"] != self.stage or not said["done"]
            self.stage, self.done, self.total = said["stage"], said["done"], said["total"]
            self.last = time.monotonic()
            if is_new:
                self.begun, self.since = self.done, self.last
        if "warning" in said:
            self.warnings.append(said["warning"])
        if "failed" in said:
            self.failure = Failure(said["failed"]["type"], said["failed"]["message"])
        self.ended = self.ended or "ended" in said

    @property
    def progress(self) -> Progress:
        ago = time.monotonic() - self.last
        seconds = self.last - self.since
        return Progress(self.stage, self.done, self.total, seconds, ago, self.begun)


class Feeder:
    """A thread that gives queued jobs to one child process, which it keeps warm."""

    def __init__(
        self, store: JobStore, home: Path, device: str, after_job: Callable[[], None]
    ) -> None:
        self._store, self._home, self._device = store, home, device
        self._after_job = after_job
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._child: Child | None = None
        self._stopping = self._ready = False
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self.device_found = "starting"
        self.running: Running | None = None

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Look again: a job was queued, or is to be cancelled."""
        self._events.put(None)

    def stop(self) -> None:
        """End the child and the thread; a job that runs goes back to the queue."""
        self._stopping = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def is_ready(self) -> bool:
        """Return whether the child has loaded what it needs."""
        return self._ready

    def _run(self) -> None:
        end_orphan(self._home)
        self._start_child()
        while not self._stopping:
            job = self._insisted(self._store.next_queued)
            if job is None:
                self._hear(self._next_event(None), None)
            elif self._insisted(partial(self._store.begin, job.id)):
                self._do(job)
        self._end_child()

    def _do(self, job: Job) -> None:
        """Have a job done, and say what became of it."""
        running = self.running = Running(job.id)
        try:
            self._attend(running)
        except Exception as error:  # one job's trouble must not cost the others their turn
            log.exception("job %s", job.id)
            self._kill_child()
            running.failure = Failure(type(error).__name__, f"{error} ({REPORT})")
        self._insisted(partial(self._settle, running))
        self.running = None
        if not self._stopping:
            self._start_child()  # warm for the next
            self._insisted(self._after_job)

    def _attend(self, running: Running) -> None:
        """Give the child a job and listen until it is done with it, or is no more."""
        self._start_child()
        if self._child is None:
            running.failure = Failure("WorkerError", f"{CANNOT_START}; see {self._home / LOG}")
            return
        child, deadline = self._child, None
        child.tell({"job": running.job_id, "folder": str(self._folder(running).path)})
        while self._child is child and not running.ended:
            self._hear(self._next_event(deadline), running)
            if running.ended:
                return
            if self._stopping:
                self._end_child()
            elif deadline is not None:
                if time.monotonic() >= deadline:
                    self._kill_child()
            elif self._store.is_cancel_asked(running.job_id):
                child.tell({"cancel": running.job_id})
                deadline = time.monotonic() + GRACE_S

    def _settle(self, running: Running) -> None:
        """Say what became of a job; that a result is there counts more than what was said."""
        folder, job_id = self._folder(running), running.job_id
        summary = folder.read_summary()
        folder.clear_work()
        if self._stopping and summary is None and not self._store.is_cancel_asked(job_id):
            self._store.requeue(job_id)
            return
        folder.clear_unfinished()
        finish = partial(self._store.finish, job_id, size_bytes=folder.size_bytes())
        if summary is not None:
            finish("done", warnings=summary["warnings"], result=summary["result"])
        elif self._store.is_cancel_asked(job_id):
            finish("cancelled", warnings=running.warnings)
        else:
            error = running.failure or Failure("WorkerError", f"no result was left ({REPORT})")
            finish("failed", warnings=running.warnings, error=error)

    def _hear(self, heard: Heard | None, running: Running | None) -> None:
        """Take in what the child said, or that it has ended."""
        if heard is None or heard.child is not self._child:
            return
        if heard.said is None:
            self._child, self._ready = None, False
            failure = self._mourned(heard.child)
            if running is not None:
                running.failure = failure
        elif "ready" in heard.said:
            self.device_found, self._ready = heard.said["ready"], True
        elif running is not None and heard.said.get("job") == running.job_id:
            running.hear(heard.said)

    def _mourned(self, child: Child) -> Failure:
        """Return why a job failed whose child ended by itself."""
        child.kill()  # it is no more: this takes its pipes away
        how, words = child.how_it_ended(), child.last_words()
        log.error("the process that computes ended (%s): %s", how, words)
        if self.device_found == "starting":
            why = words or how
            return Failure("WorkerError", f"{CANNOT_START} ({why}); see {self._home / LOG}")
        return Failure(
            "WorkerError",
            f"the process that computes ended ({how}), as it does when memory runs out; try a"
            f" smaller region, and if it ends again, look into {self._home / LOG}",
        )

    def _next_event(self, deadline: float | None) -> Heard | None:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            event: Heard | None = self._events.get(timeout=left)
        except Empty:
            return None
        return event

    def _insisted(self, action: Callable[[], T]) -> T | None:
        """Return what an action returns, tried again while the disk is full; None at the end."""
        while True:
            try:
                return action()
            except DiskFullError as error:
                log.warning("%s", error)
            if self._stopping:
                return None
            time.sleep(RETRY_S)

    def _start_child(self) -> None:
        """See to it that there is a child; there is none if the system refuses."""
        if self._child is None:
            try:
                self._child = Child(self._home, self._device, self._events)
            except OSError as error:
                log.error("the process that computes cannot be started: %s", error)

    def _end_child(self) -> None:
        """Let the child end by itself, or end it."""
        if self._child is not None:
            self._child.ask_to_end(GRACE_S)
            self._kill_child()

    def _kill_child(self) -> None:
        if self._child is not None:
            self._child.kill()
        self._child, self._ready = None, False

    def _folder(self, running: Running) -> JobFolder:
        return JobFolder(self._home / "jobs" / running.job_id)
