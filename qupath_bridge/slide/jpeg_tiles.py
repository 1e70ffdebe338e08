"""Slides whose levels are JPEG tiles of a TIFF: what OpenSlide shows of them, in half its time.

libjpeg decodes here as there, so the pixels are the very same; what OpenSlide adds to it, putting
tiles together with alpha, costs more than the decoding.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import imagecodecs
import numpy as np
import tifffile

from qupath_bridge.geometry import Mpp
from qupath_bridge.slide.openslide_handle import CACHE_BYTES
from qupath_bridge.slide.tiff_pieces import Piece, PieceCache, paste, touched

COLOUR_SPACES = {tifffile.PHOTOMETRIC.RGB: "RGB", tifffile.PHOTOMETRIC.YCBCR: "YCBCR"}


@dataclass(frozen=True)
class TiledLevel:
    """Where a level's tiles lie in the file, row by row, and how they are to be decoded.

    width, height: in pixels; tile: (height, width) of each. offsets: int64 [N]; counts: int32 [N],
    in bytes. tables: what the tiles' JPEGs have in common. colours: what their channels are.
    """

    width: int
    height: int
    tile: tuple[int, int]
    offsets: np.ndarray
    counts: np.ndarray
    tables: bytes | None
    colours: str


class JpegTileSource:
    """The levels of an open file; safe to read from several threads."""

    origin_l0 = (0, 0)

    def __init__(self, path: Path, levels: Sequence[TiledLevel], mpp: Mpp | None) -> None:
        self.mpp = mpp
        self.level_sizes = [(level.width, level.height) for level in levels]
        self.size_l0 = self.level_sizes[0]
        self._levels = levels
        self._file = path.open("rb")
        self._file_lock = threading.Lock()
        self._cache = PieceCache(CACHE_BYTES)

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return a part of a level, uint8 [height, width, 3].

        Raises:
            OSError: the file cannot be read. ValueError: it is shorter than it was, or closed.
            imagecodecs' errors: a tile is damaged.
        """
        out, stored = np.empty((height, width, 3), np.uint8), self._levels[level]
        size = stored.height, stored.width
        for row, column in touched(stored.tile, size, x, y, width, height):
            decode = partial(self._decode, stored, row, column)
            paste(self._cache.get((level, row, column), decode), 0, out, x, y)
        return out

    def close(self) -> None:
        self._file.close()

    def _decode(self, level: TiledLevel, row: int, column: int) -> Piece:
        height, width = level.tile
        index = row * -(-level.width // width) + column
        data = _read_at(self._file, self._file_lock, level.offsets[index], level.counts[index])
        pixels = imagecodecs.jpeg8_decode(
            data, tables=level.tables, colorspace=level.colours, outcolorspace="RGB"
        )
        if pixels.shape != (height, width, 3):
            raise ValueError(f"a tile of {width} x {height} pixels holds {pixels.shape}")
        return Piece(pixels, 0, row * height, column * width)


def tiled_levels(path: Path, level_sizes: Sequence[tuple[int, int]]) -> list[TiledLevel] | None:
    """Return the levels of these (width, height) that a TIFF has; None where any is otherwise.

    Otherwise: not of 8-bit RGB or YCbCr JPEG tiles, all of them there, or not the only page of its
    size. What such a file shows is for OpenSlide to say.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            pages = [page for page in tif.pages if isinstance(page, tifffile.TiffPage)]
            found = [_level(pages, size, tif.filehandle.size) for size in level_sizes]
    except (tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError, struct.error):
        return None
    levels = [level for level in found if level]
    return levels if len(levels) == len(level_sizes) else None


def _level(
    pages: Sequence[tifffile.TiffPage], size: tuple[int, int], file_bytes: int
) -> TiledLevel | None:
    alike = [page for page in pages if (page.imagewidth, page.imagelength) == size]
    if len(alike) != 1 or not _is_jpeg_tiles(alike[0]):
        return None
    (page,) = alike
    offsets, counts = np.array(page.dataoffsets, np.int64), np.array(page.databytecounts, np.int64)
    across, down = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
    if not len(offsets) == len(counts) == across * down or not counts.all():
        return None  # tiles that were never written are more than white to OpenSlide
    if (offsets + counts).max() > file_bytes:
        return None
    return TiledLevel(
        *size,
        (page.tilelength, page.tilewidth),
        offsets,
        counts.astype(np.int32),
        page.jpegtables,
        COLOUR_SPACES[tifffile.PHOTOMETRIC(page.photometric)],
    )


def _is_jpeg_tiles(page: tifffile.TiffPage) -> bool:
    return (
        page.is_tiled
        and page.compression == tifffile.COMPRESSION.JPEG
        and page.photometric in COLOUR_SPACES
        and page.planarconfig == tifffile.PLANARCONFIG.CONTIG
        and (page.samplesperpixel, page.bitspersample, page.tiledepth) == (3, 8, 1)
    )


def _read_at(file: IO[bytes], lock: threading.Lock, offset: int, count: int) -> bytes:
    """Return bytes of a file, several threads' at once where the system can."""
    if hasattr(os, "pread"):
        data = os.pread(file.fileno(), int(count), int(offset))
    else:  # Windows
        with lock:
            file.seek(offset)
            data = file.read(count)
    if len(data) < count:
        raise ValueError(f"the file ends {count - len(data)} bytes before a tile does")
    return data
