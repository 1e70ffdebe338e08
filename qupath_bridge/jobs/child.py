"""The process that computes, seen from the server: started, told, heard, ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from qupath_bridge.lock import end_holder

LOG, LOCK = "worker.log", "worker.lock"
LOG_BYTES = 5 * 2**20
PATIENCE_S = 3.0


@dataclass(frozen=True)
class Heard:
    """Something a child said; None: it has ended."""

    child: Child
    said: Mapping[str, Any] | None


class Child:
    """A running child process; what it says is put into `heard`."""

    def __init__(self, home: Path, device: str, heard: SimpleQueue[Any]) -> None:
        self._log = home / LOG
        self._heard = heard
        with suppress(OSError):
            if self._log.stat().st_size > LOG_BYTES:
                self._log.replace(self._log.with_suffix(".log.1"))
        # -P: a module in whatever folder the server was started in is none of ours.
        command = [sys.executable, "-P", "-m", "qupath_bridge.jobs.worker", str(home), device]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a child without pipes")
        self._process, self._in, self._out = process, process.stdin, process.stdout
        self.pid = process.pid
        self._listener = threading.Thread(target=self._listen, name="child", daemon=True)
        self._listener.start()

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send a message; one that has ended does not mind."""
        with suppress(OSError, ValueError):
            send(self._in, message)

    def ask_to_end(self, patience_s: float = 0.0) -> None:
        """Close what it listens to, on which it ends by itself; wait so long for that."""
        with suppress(OSError):
            self._in.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)

    def kill(self) -> None:
        """End it, whatever it does, and return when it has ended."""
        with suppress(OSError):
            self._process.kill()
        self._process.wait()
        self.ask_to_end()
        self._listener.join()

    def how_it_ended(self) -> str:
        """Return how it ended, in words."""
        status = self._process.wait()
        return f"killed by signal {-status}" if status < 0 else f"exit status {status}"

    def last_words(self) -> str:
        """Return the last line of its log."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, self._log.stat().st_size - 4096))
                lines = log.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _listen(self) -> None:
        with self._out as pipe:
            for line in pipe:
                with suppress(ValueError):  # half a line of one that was killed
                    self._heard.put(Heard(self, json.loads(line)))
        self._heard.put(Heard(self, None))


def send(pipe: IO[bytes], message: Mapping[str, Any]) -> None:
    """Send a message to the other end of a pipe: a line of JSON."""
    pipe.write(json.dumps(message).encode() + b"\n")
    pipe.flush()


def end_orphan(home: Path) -> None:
    """End the child that a server which died may have left behind."""
    end_holder(home / LOCK, PATIENCE_S)
