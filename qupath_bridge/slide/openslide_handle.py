"""An OpenSlide handle that outlives decoding errors, and keeps what it decoded for a while."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import openslide

from qupath_bridge.slide.base import on_white

CACHE_BYTES = 16 * 2**20
"""Decoded tiles that are kept. Blocks cut through stored tiles, and the row of blocks below
needs those again: stored tiles of 256 px along 16,000 px of tissue take about so much, and those of
wide tissue would take several times as much. 16 to 128 MB made no difference."""


class OpenSlideHandle:
    """An image file open in OpenSlide; safe to read from several threads.

    After one decoding error OpenSlide refuses every later read through the same handle, be it of
    sound parts or from other threads. So after an error the file is opened anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cache = openslide.OpenSlideCache(CACHE_BYTES)
        self._recovery = threading.Lock()
        self.slide = self._opened()

    def read(self, corner_l0: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        """Return a part of a level on white, uint8 [height, width, 3].

        Raises:
            OpenSlideError: this very part cannot be decoded.
        """
        slide = self.slide  # held here, as a handle that was replaced closes with its last user
        try:
            return _rgb(slide, corner_l0, level, size)
        except openslide.OpenSlideError:
            with self._recovery:
                return self._read_anew(corner_l0, level, size)

    def close(self) -> None:
        self.slide.close()

    def _read_anew(
        self, corner_l0: tuple[int, int], level: int, size: tuple[int, int]
    ) -> np.ndarray:
        """Return the part through a handle that nobody else uses, in case another broke theirs."""
        own = self._opened()
        try:
            pixels = _rgb(own, corner_l0, level, size)
        except openslide.OpenSlideError:
            own.close()
            self.slide = self._opened()
            raise
        self.slide = own
        return pixels

    def _opened(self) -> openslide.OpenSlide:
        slide = openslide.OpenSlide(self._path)
        slide.set_cache(self._cache)
        return slide


def _rgb(
    slide: openslide.OpenSlide, corner_l0: tuple[int, int], level: int, size: tuple[int, int]
) -> np.ndarray:
    image = slide.read_region(corner_l0, level, size)
    if image.getchannel("A").getextrema() == (255, 255):
        return np.asarray(image.convert("RGB"))  # a copy less than an array of all four
    return on_white(np.asarray(image))
