"""Freed memory goes back where the C library can do so, and where it cannot nothing happens."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

import pytest

from qupath_bridge.engine import heap


@pytest.fixture(autouse=True)
def looked_up_anew():
    heap._of_glibc.cache_clear()
    yield
    heap._of_glibc.cache_clear()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_glibc_is_asked():
    assert heap._of_glibc("malloc_trim") is not None
    assert heap._of_glibc("mallopt") is not None
    heap.keep_few_heaps()
    heap.give_back()
    heap.give_back_all()


@pytest.mark.parametrize("failure", [OSError, AttributeError, TypeError])
def test_another_c_library_is_left_alone(monkeypatch, failure):
    def library(name):
        raise failure

    monkeypatch.setattr(ctypes, "CDLL", library)
    assert heap._of_glibc("malloc_trim") is None
    heap.keep_few_heaps()
    heap.give_back()
    heap.give_back_all()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="a system without /proc")
def test_what_is_held_is_what_the_system_says():
    held = heap.held_mib()
    some = bytearray(64 * 2**20)
    some[::4096] = b"1" * len(some[::4096])
    assert heap.held_mib() - held == pytest.approx(64, abs=16)


def test_it_is_given_back_once_more_is_held_and_not_too_often(monkeypatch):
    clock, held, trims = [0.0], [100.0], []

    def give_back():
        trims.append((clock[0], held[0]))
        held[0] -= 5

    monkeypatch.setattr(heap, "held_mib", lambda: held[0])
    monkeypatch.setattr(heap, "give_back", give_back)
    monkeypatch.setattr(heap.time, "monotonic", lambda: clock[0])
    watched = heap.Held()
    for now in ((1, 90.0), (2, 116.0), (3, 117.0), (3.1, 200.0), (4, 128.0), (5, 128.5)):
        clock[0], held[0] = now
        watched.done(64)
    assert trims == [(3, 117.0), (5, 128.5)]
    clock[0], held[0] = 6, 200.0
    for _ in range(4):
        assert len(trims) == 2
        watched.done(16)
    assert len(trims) == 3
    monkeypatch.setattr(heap, "held_mib", lambda: 0.0)  # the system does not say
    watched = heap.Held()
    clock[0] = 9
    watched.done(64)
    assert len(trims) == 3
