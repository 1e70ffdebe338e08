"""Freed memory goes back where the C library can do so, and where it cannot nothing happens."""

from __future__ import annotations

import ctypes
import platform

import pytest

from qupath_bridge.engine import heap


@pytest.fixture(autouse=True)
def looked_up_anew():
    heap._trim.cache_clear()
    yield
    heap._trim.cache_clear()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_glibc_is_asked():
    assert heap._trim() is not None
    heap.give_back()
    heap.give_back_all()


@pytest.mark.parametrize("failure", [OSError, AttributeError, TypeError])
def test_another_c_library_is_left_alone(monkeypatch, failure):
    def library(name):
        raise failure

    monkeypatch.setattr(ctypes, "CDLL", library)
    assert heap._trim() is None
    heap.give_back()
    heap.give_back_all()
