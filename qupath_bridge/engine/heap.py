"""Freed memory that the C library keeps for itself, given back to the system."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Return what was freed to the system, where the C library is glibc; some milliseconds.

    Many threads that decode, fuse and trace leave holes in each other's heaps, which glibc gives
    back only at their ends: over a whole slide a tenth of all that is held.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


def give_back_all() -> None:
    """Return what was freed, and what only points to itself; some tenths of a second.

    Of a large TIFF's index that is 10 MB, which Python would come upon much later.
    """
    gc.collect()
    give_back()


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library; Windows knows no CDLL(None)
        return None
