"""One process at a time: a lock that ends with its process, however that ends."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    FAR = 2**30  # a byte beyond the pid: what is locked cannot be read by others

    def _lock(handle: int) -> None:
        os.lseek(handle, FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


POLL_S = 0.05


class ProcessLock:
    """A file that one process at a time has locked; its pid stands in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def take(self) -> bool:
        """Return whether this process has the lock now."""
        if self._handle is not None:
            return True
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(handle)
        except OSError:
            os.close(handle)
            return False
        os.lseek(handle, 0, os.SEEK_SET)
        with suppress(OSError):  # a full disk: then the pid is not known
            os.write(handle, f"{os.getpid():<20}\n".encode())
        self._handle = handle
        return True

    def wait(self, seconds: float) -> bool:
        """Return whether this process got the lock within so many seconds."""
        end = time.monotonic() + seconds
        while not self.take():
            if time.monotonic() >= end:
                return False
            time.sleep(POLL_S)
        return True

    def holder(self) -> int | None:
        """Return the pid of the process that took the lock last."""
        try:
            return int(self._path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def end_holder(path: Path, patience_s: float) -> None:
    """Wait until nobody holds a lock; end the process that still holds it after `patience_s`."""
    lock = ProcessLock(path)
    try:
        if lock.wait(patience_s):
            return
        pid = lock.holder()
        if pid is not None and pid != os.getpid():
            # It holds the lock, so this is the pid of that process and of no other.
            with suppress(OSError):
                os.kill(pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        lock.wait(patience_s)
    finally:
        lock.release()
