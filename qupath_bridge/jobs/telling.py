"""What a job tells while it is done, and how it learns that it is to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

LEAST_S = 0.2
"""Between two tidings of the same stage."""


class CancelledJob(BaseException):
    """The job is to stop. As KeyboardInterrupt, so that nobody takes it for an error."""


class Teller:
    """Sends what becomes of one job; every call is also where the job can be stopped."""

    def __init__(
        self, job_id: str, send: Callable[[Mapping[str, Any]], None], stopped: Callable[[], bool]
    ) -> None:
        self._job_id, self._send, self._stopped = job_id, send, stopped
        self._stage, self._done, self._total = "", 0, 0
        self._spoke = 0.0
        self.warnings: list[str] = []

    def stage(self, name: str, total: int | None = None, done: int = 0) -> None:
        """A stage begins, or is so far.

        Raises:
            CancelledJob: the job is to stop.
        """
        if self._stopped():
            raise CancelledJob
        now = time.monotonic()
        if name == self._stage and done != total and now - self._spoke < LEAST_S:
            return
        self._stage, self._spoke = name, now
        self._send({"job": self._job_id, "stage": name, "done": done, "total": total})

    def begin_tiles(self, total: int) -> None:
        self._done, self._total = 0, total
        self.stage("tiles", total)

    def advance(self, tiles: int) -> None:
        """So many more tiles are done; when all are, what was found gets its outlines."""
        self._done += tiles
        self.stage("tiles", self._total, self._done)
        if self._done >= self._total:
            self.stage("outlines", self._total, self._total)

    def warn(self, text: str) -> None:
        """Something that the user should know."""
        self.warnings.append(text)
        self._send({"job": self._job_id, "warning": text})

    def ended(self, failed: Mapping[str, str] | None = None) -> None:
        """The job is done with, well or not."""
        self._send({"job": self._job_id, "ended": True, **({"failed": failed} if failed else {})})
