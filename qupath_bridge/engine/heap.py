"""Freed memory that the C library keeps for itself, given back to the system."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

M_ARENA_MAX = -8  # of glibc's malloc.h
FEW = 2

PAUSE_S, GROWN_MIB, TILES = 0.2, 16, 64
"""Giving back takes some milliseconds, and what is needed again must be asked for anew. After each
batch of 16 tiles that would take 4 % of the shipped model's time, and a fifth where the model costs
next to nothing."""


def keep_few_heaps() -> None:
    """Let threads share heaps from now on, where the C library is glibc.

    Each thread has one of its own else, with holes of its own: a tenth of all that is held.
    """
    allow = _of_glibc("mallopt")
    if allow is not None:
        allow(M_ARENA_MAX, FEW)


class Held:
    """What this process holds, and gives back now and then while tiles are done."""

    def __init__(self) -> None:
        self._least_mib, self._last, self._tiles = held_mib(), time.monotonic(), 0

    def done(self, tiles: int) -> None:
        """Give freed memory back if more than `GROWN_MIB` came to what was held the last time.

        At most every `PAUSE_S`, and for every `TILES` tiles.
        """
        self._tiles += tiles
        now = time.monotonic()
        if self._tiles < TILES or now - self._last < PAUSE_S:
            return
        if held_mib() > self._least_mib + GROWN_MIB:
            give_back()
            self._least_mib, self._last, self._tiles = held_mib(), now, 0


def held_mib() -> float:
    """Return how much memory this process has; 0 where the system has no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def give_back() -> None:
    """Return what was freed to the system, where the C library is glibc; some milliseconds.

    Many threads that decode, fuse and trace leave holes in each other's heaps, which glibc gives
    back only at their ends: over a whole slide a tenth of all that is held.
    """
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def give_back_all() -> None:
    """Return what was freed, and what only points to itself; some tenths of a second.

    Of a large TIFF's index that is 10 MB, which Python would come upon much later.
    """
    gc.collect()
    give_back()


@cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):  # another C library; Windows knows no CDLL(None)
        return None
