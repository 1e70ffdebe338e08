"""Images that OpenSlide opens, in QuPath's coordinates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import openslide

from qupath_bridge.geometry import Mpp
from qupath_bridge.slide.base import DamagedError, NotRecognisedError, PixelSource
from qupath_bridge.slide.jpeg_tiles import JpegTileSource, tiled_levels
from qupath_bridge.slide.openslide_handle import OpenSlideHandle
from qupath_bridge.slide.tiff_kind import dependable_resolution, is_plain_rgb

BLOCK = 256
"""Side, in level pixels, of what is read at once from a level with a broken downsample."""

PLAIN_TIFF = ("generic-tiff", "aperio")
"""Kinds whose levels are pages of one TIFF, as they are. Of these OpenSlide turns 16-bit and
greyscale pixels into 8-bit RGB without a word, so they need a look."""


class OpenSlideSource:
    """An image file open in OpenSlide."""

    def __init__(self, handle: OpenSlideHandle, size_l0: tuple[int, int] | None) -> None:
        self._handle, slide = handle, handle.slide
        self._level_downsamples = slide.level_downsamples
        self.level_sizes = list(slide.level_dimensions)
        self.mpp = _mpp_of(slide.properties)
        x, y, width, height = bounds_of(slide.properties, slide.dimensions)
        if size_l0 == slide.dimensions:  # the image was added to QuPath with --no-crop
            x, y, (width, height) = 0, 0, slide.dimensions
        self.origin_l0, self.size_l0 = (x, y), (width, height)

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return a part of a level, uint8 [height, width, 3].

        OpenSlide is asked in whole pixels of level 0 and divides by its own downsample, the mean
        of both axes' ratios. Where that is a broken number (2.0005), a level pixel's corner is no
        whole number of level-0 pixels, and OpenSlide shifts by the remainder, other for every
        read. So such levels are read in blocks whose corners are fixed: the remainder (at most
        half a level-0 pixel) never adds up, and a pixel is the same whichever read it is in.
        """
        downsample = self._level_downsamples[level]
        if downsample.is_integer():
            return self._read_at(level, x, y, (width, height))
        out = np.empty((height, width, 3), np.uint8)
        for top in _block_starts(y, height):
            for left in _block_starts(x, width):
                right, bottom = min(left + BLOCK, x + width), min(top + BLOCK, y + height)
                block = self._read_at(level, left, top, (right - left, bottom - top))
                skip_x, skip_y = max(x - left, 0), max(y - top, 0)
                rows, columns = (
                    slice(max(top - y, 0), bottom - y),
                    slice(max(left - x, 0), right - x),
                )
                out[rows, columns] = block[skip_y:, skip_x:]
        return out

    def _read_at(self, level: int, x: int, y: int, size: tuple[int, int]) -> np.ndarray:
        downsample = self._level_downsamples[level]
        corner_l0 = (round(x * downsample), round(y * downsample))
        return self._handle.read(corner_l0, level, size)

    def close(self) -> None:
        self._handle.close()


def open_with_openslide(path: Path, size_l0: tuple[int, int] | None) -> PixelSource:
    """Return the file as OpenSlide shows it.

    Raises:
        NotRecognisedError: OpenSlide does not know the format, or would misread this file.
        DamagedError: OpenSlide knows the format, but the file is broken.
    """
    try:
        # As QuPath does: a link's target has the companion files, the link has not.
        handle = OpenSlideHandle(path.resolve())
    except openslide.OpenSlideUnsupportedFormatError:
        raise NotRecognisedError("unknown format") from None
    except openslide.OpenSlideError as error:
        raise DamagedError(str(error)) from error
    source = OpenSlideSource(handle, size_l0)
    if handle.slide.properties.get("openslide.vendor") not in PLAIN_TIFF:
        return source
    if not is_plain_rgb(path):
        source.close()
        raise NotRecognisedError("a TIFF that is better read otherwise")
    levels = tiled_levels(path, source.level_sizes)
    if not levels or (source.origin_l0, source.size_l0) != ((0, 0), source.level_sizes[0]):
        return source
    source.close()
    return JpegTileSource(path, levels, source.mpp)


def bounds_of(
    properties: Mapping[str, str], full_size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return x, y, width and height of QuPath's image within OpenSlide's level 0.

    QuPath's rule (OpenslideImageServer, the same in 0.5 to 0.7): only if all four `bounds`
    properties are there and each is a whole number, the image is that rectangle, its corner being
    QuPath's (0, 0) and its size not limited to the level's; otherwise it is all of level 0. The
    levels' downsamples are those of the uncropped image either way.
    """
    names = [f"openslide.bounds-{part}" for part in ("x", "y", "width", "height")]
    try:
        x, y, width, height = (int(properties[name]) for name in names)
    except (KeyError, ValueError):
        return 0, 0, *full_size
    return x, y, width, height


def _mpp_of(properties: Mapping[str, str]) -> Mpp | None:
    try:
        mpp = Mpp(float(properties["openslide.mpp-x"]), float(properties["openslide.mpp-y"]))
    except (KeyError, ValueError):
        return None
    if properties.get("openslide.vendor") == "generic-tiff":
        return dependable_resolution(mpp)
    return mpp


def _block_starts(start: int, length: int) -> Iterator[int]:
    return iter(range(start // BLOCK * BLOCK, start + length, BLOCK))
