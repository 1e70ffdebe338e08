"""One thread that works behind another, in order, and not too far behind."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from qupath_bridge.wanted import drop_when


class Follower:
    """Does what it is told, one thing after the other, while its caller goes on.

    ahead: how many things may wait; then the caller does. leads: a follower that this one's work
    tells what to do, and which is left later. A context manager: leaving it waits for all that was
    told, or, where the caller failed or is interrupted, until what is being done asks
    `check_wanted` or ends, here and in whom this one leads.
    """

    def __init__(self, name: str, ahead: int = 2, leads: Follower | None = None) -> None:
        self._dropped: threading.Event = leads._dropped if leads else threading.Event()
        self._thread = ThreadPoolExecutor(1, name, drop_when, (self._dropped,))
        self._ahead = ahead
        self._waiting: deque[Future[None]] = deque()

    def do(self, work: Callable[..., None], *arguments: Any) -> None:
        """Have this done. What earlier work raised is raised here."""
        self._waiting.append(self._thread.submit(work, *arguments))
        while len(self._waiting) > self._ahead or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *failure: object) -> None:
        is_done = False
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
            is_done = kind is None
        finally:
            if not is_done:
                self._dropped.set()
            self._thread.shutdown(wait=True, cancel_futures=True)
