"""Strips kept on disk: a full one is told, whenever it proves to be full."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from qupath_bridge import packed
from qupath_bridge.errors import ProjectError
from qupath_bridge.packed import PackedStrip, PackedStrips


def strip(size: int) -> PackedStrip:
    return PackedStrip(1, b"l" * size, b"n" * size, b"r")


TOLD = r"File too large.*make room on its disk, or set TMPDIR"


@contextmanager
def small_disk() -> Iterator[None]:
    """Let no file of this process become larger than a page; its output may be one."""
    resource = pytest.importorskip("resource", reason="limits of files are not for Windows")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@pytest.fixture(autouse=True)
def little_memory(monkeypatch) -> None:
    monkeypatch.setattr(packed, "IN_MEMORY", 100)


def test_a_disk_that_is_full_at_once_is_told():
    strips = PackedStrips()
    with small_disk(), pytest.raises(ProjectError, match=TOLD):
        strips.append(strip(100_000))
    del strips
    gc.collect()


def test_a_disk_that_proves_to_be_full_in_the_end_is_told():
    strips = PackedStrips()
    with small_disk():
        strips.append(strip(2500))  # held back until more comes, or is read
        with pytest.raises(ProjectError, match=TOLD):
            list(strips.taken())


def test_what_fits_comes_back():
    strips = PackedStrips()
    with small_disk():
        for size in (10, 1000, 0):
            strips.append(strip(size))
        assert list(strips.taken()) == [strip(10), strip(1000), strip(0)]
