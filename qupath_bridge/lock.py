"""One process at a time: a lock that ends with its process, however that ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from qupath_bridge.clock import now
from qupath_bridge.disk import write_text
from qupath_bridge.errors import ProjectError

POLL_S = 0.05


@dataclass(frozen=True)
class Holder:
    """The process that has a lock: where it runs, since when, and what was called."""

    pid: int
    host: str
    since: str
    command: str

    @classmethod
    def this_process(cls) -> Holder:
        """Return this process, which takes a lock now."""
        program, *arguments = sys.orig_argv
        command = shlex.join([Path(program).name, *arguments])
        return cls(os.getpid(), socket.gethostname(), now(), command)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since} ({self.command})"


class ProcessLock:
    """A file that one process at a time has locked; who, stands in a note beside it.

    The lock is the system's, so it goes with its process; the note is only for who is refused.
    """

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
        self._note = path.with_name(f"{path.name}.json")

    def take(self) -> bool:
        """Return whether this process has the lock now.

        Raises:
            OSError: the file cannot be written, or its file system has no locks.
        """
        if self._lock.is_locked:
            return True
        try:
            self._lock.acquire()
        except Timeout:
            return False
        self._write_note()
        return True

    def wait(self, seconds: float) -> bool:
        """Return whether this process got the lock within so many seconds."""
        end = time.monotonic() + seconds
        while not self.take():
            if time.monotonic() >= end:
                return False
            time.sleep(POLL_S)
        return True

    def holder(self) -> Holder | None:
        """Return who took the lock last; None where nobody knows."""
        try:
            return Holder(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def release(self) -> None:
        if self._lock.is_locked:
            with suppress(OSError):
                self._note.unlink(missing_ok=True)
            self._lock.release()

    def _write_note(self) -> None:
        with suppress(OSError, ProjectError):  # a full disk: then nobody knows
            self._note.unlink(missing_ok=True)  # it names one that was killed
            write_text(self._note, json.dumps(asdict(Holder.this_process())))


def end_holder(path: Path, patience_s: float) -> None:
    """Wait until nobody holds a lock; end the process that still holds it after `patience_s`."""
    lock = ProcessLock(path)
    try:
        if lock.wait(patience_s):
            return
        holder = lock.holder()
        if holder and holder.pid != os.getpid() and holder.host == socket.gethostname():
            # It holds the lock, so this is the pid of that process and of no other.
            with suppress(OSError):
                os.kill(holder.pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        lock.wait(patience_s)
    finally:
        lock.release()
