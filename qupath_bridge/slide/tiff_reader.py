"""TIFFs that OpenSlide leaves: OME-TIFF, striped, pyramids in SubIFDs; read piece by piece."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import tifffile

from qupath_bridge.slide.base import (
    DamagedError,
    NotRecognisedError,
    UnsupportedError,
    on_white,
)
from qupath_bridge.slide.tiff_kind import mpp_of, refuse_unfit
from qupath_bridge.slide.tiff_pieces import Piece, PieceCache, paste, touched

CACHE_BYTES = 128 * 2**20
"""Decoded pieces that are kept: strips may be as wide as the image and are needed again."""

MAX_PIECE_PIXELS = 400_000_000
"""A tile or strip can only be decoded whole; a huge image in one strip would not fit in memory."""

ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2


class TiffSource:
    """One series of a TIFF file, and its levels."""

    origin_l0 = (0, 0)

    def __init__(self, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
        self._tif = tif
        levels = _levels_like_first(series)
        self._pages = [[_present(page) for page in level.pages] for level in levels]
        for page in chain.from_iterable(self._pages):
            _refuse_cut(page)
            _keyframe_of(page).decode  # noqa: B018 - made here, as making it moves the file pointer
        self._file_lock = threading.RLock()
        self._cache = PieceCache(CACHE_BYTES)
        self._alpha = _alpha_kind(series.keyframe)
        self.mpp = mpp_of(series, tif)
        self.level_sizes = [_size_of(level) for level in levels]
        self.size_l0 = self.level_sizes[0]

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return a part of a level, uint8 [height, width, 3]; missing tiles are white."""
        out = np.full((height, width, 4 if self._alpha else 3), 255, np.uint8)
        for channel, page in enumerate(self._pages[level]):
            for index in _pieces_touching(_keyframe_of(page), x, y, width, height):
                decode = partial(self._decode, page, index)
                piece = self._cache.get((level, channel, index), decode)
                paste(piece, channel, out, x, y)
        return self._without_alpha(out)

    def _decode(self, page: tifffile.TiffPage | tifffile.TiffFrame, index: int) -> Piece:
        """Return a piece, clipped to the image."""
        keyframe = _keyframe_of(page)
        where = [page.dataoffsets[index]], [page.databytecounts[index]], [index]
        # tifffile's own lock does nothing unless asked for.
        (data, _), *_ = page.parent.filehandle.read_segments(*where, lock=self._file_lock)
        pixels, place, _ = keyframe.decode(data, index, jpegtables=page.jpegtables)
        plane, _, top, left, _ = place
        if pixels is not None:
            pixels = pixels[0][: keyframe.imagelength - top, : keyframe.imagewidth - left]
        return Piece(pixels, plane, top, left)

    def _without_alpha(self, pixels: np.ndarray) -> np.ndarray:
        if self._alpha == UNASSOCIATED_ALPHA:
            return on_white(pixels)
        if self._alpha == ASSOCIATED_ALPHA:
            ground = 255 - pixels[..., 3:].astype(np.uint16)
            return np.minimum(pixels[..., :3] + ground, 255).astype(np.uint8)
        return pixels

    def close(self) -> None:
        self._tif.close()


def open_with_tifffile(path: Path, size_l0: tuple[int, int] | None) -> TiffSource:
    """Return the TIFF's image of the wanted size, or else its largest one.

    Raises:
        NotRecognisedError: it is no TIFF.
        UnsupportedError: its pixels are not 8-bit RGB, or it is a stack.
    """
    try:
        tif = tifffile.TiffFile(path)
    except tifffile.TiffFileError as error:
        raise NotRecognisedError(str(error)) from error
    try:
        series = _choose_series(tif, size_l0)
        refuse_unfit(series, tif)
        _refuse_huge_pieces(series.keyframe)
        return TiffSource(tif, series)
    except Exception:
        tif.close()
        raise


def _choose_series(
    tif: tifffile.TiffFile, size_l0: tuple[int, int] | None
) -> tifffile.TiffPageSeries:
    if not tif.series:
        raise DamagedError("a TIFF without an image")
    of_this_size = [series for series in tif.series if _size_of(series) == size_l0]
    chosen = (of_this_size or sorted(tif.series, key=_area_of, reverse=True))[0]
    twins = sum(_size_of(series) == _size_of(chosen) for series in tif.series)
    if twins > 1:
        raise UnsupportedError(
            f"holds {twins} images of the same size, and which is meant is not said"
        )
    return chosen


def _levels_like_first(series: tifffile.TiffPageSeries) -> list[tifffile.TiffPageSeries]:
    return [
        level
        for level in series.levels
        if (level.axes, level.dtype, len(level.pages))
        == (series.axes, series.dtype, len(series.pages))
    ]


def _size_of(series: tifffile.TiffPageSeries) -> tuple[int, int]:
    sizes = dict(zip(series.axes, series.shape, strict=True))
    return sizes.get("X", 1), sizes.get("Y", 1)


def _area_of(series: tifffile.TiffPageSeries) -> int:
    width, height = _size_of(series)
    return width * height


def _alpha_kind(page: tifffile.TiffPage) -> int | None:
    """Return how the fourth sample is to be used; None where it is none or unexplained."""
    kinds = [int(kind) for kind in page.extrasamples]
    usable = kinds[:1] in ([ASSOCIATED_ALPHA], [UNASSOCIATED_ALPHA])
    return kinds[0] if page.samplesperpixel == 4 and usable else None


def _piece_shape(page: tifffile.TiffPage) -> tuple[int, int]:
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return page.rowsperstrip, page.imagewidth


def _refuse_huge_pieces(page: tifffile.TiffPage) -> None:
    height, width = _piece_shape(page)
    if min(height, page.imagelength) * width > MAX_PIECE_PIXELS:
        raise UnsupportedError(
            f"is stored in pieces of {width} x {height} pixels, more than fit in memory; "
            "save it as a tiled pyramidal TIFF"
        )


def _pieces_touching(
    page: tifffile.TiffPage, x: int, y: int, width: int, height: int
) -> Iterator[int]:
    piece, level = _piece_shape(page), (page.imagelength, page.imagewidth)
    down, across = (-(-whole // part) for whole, part in zip(level, piece, strict=True))
    planes = page.samplesperpixel if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE else 1
    for plane in range(planes):
        for row, column in touched(piece, level, x, y, width, height):
            yield (plane * down + row) * across + column


def _refuse_cut(page: tifffile.TiffPage | tifffile.TiffFrame) -> None:
    """Do nothing if all pixels of a page are there.

    Raises:
        DamagedError: the file ends before they do, as after a broken copy.
    """
    pieces = zip(page.dataoffsets, page.databytecounts, strict=True)
    end = max((offset + count for offset, count in pieces), default=0)
    if end > page.parent.filehandle.size:
        missing = end - page.parent.filehandle.size
        raise DamagedError(f"the file is cut short, {missing} bytes of its pixels are missing")


def _present(
    page: tifffile.TiffPage | tifffile.TiffFrame | None,
) -> tifffile.TiffPage | tifffile.TiffFrame:
    if page is None:
        raise DamagedError("a file that belongs to this one is missing")
    return page


def _keyframe_of(page: tifffile.TiffPage | tifffile.TiffFrame) -> tifffile.TiffPage:
    if page.keyframe is None:
        raise DamagedError("a page without a description")
    return page.keyframe
