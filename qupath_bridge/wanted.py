"""Work in a thread whose result may not be wanted any more: it asks now and then, and ends."""

from __future__ import annotations

import threading

_here = threading.local()


class DroppedError(Exception):
    """What this thread is doing is of no use any more; nobody gets to see this."""


def drop_when(dropped: threading.Event) -> None:
    """Let what this thread does be wanted until an event is set."""
    _here.dropped = dropped


def check_wanted() -> None:
    """End what this thread is doing if it is not wanted any more; what takes long calls this.

    Raises:
        DroppedError: it is not.
    """
    dropped: threading.Event | None = getattr(_here, "dropped", None)
    if dropped is not None and dropped.is_set():
        raise DroppedError
