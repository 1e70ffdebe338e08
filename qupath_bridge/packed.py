"""Strips packed until small components are known: in memory, and on disk once they are many."""

from __future__ import annotations

import tempfile
import weakref
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

import numpy as np
from shapely.geometry.base import BaseGeometry

from qupath_bridge.classmap import NODATA, MapFrame
from qupath_bridge.components import ComponentGraph, Runs
from qupath_bridge.errors import ProjectError
from qupath_bridge.strips import Strip, region_cells

IN_MEMORY = 2**23  # bytes


@dataclass(frozen=True)
class PackedStrip:
    """What is kept of a strip until small components are known: its runs, and its rim.

    The rim are cells without a say that get a class because the region touches them or nearly so.
    What has a say but no data, as where the slide is damaged, stays without a class.
    """

    rows: int
    lengths: bytes
    nodes: bytes
    rim: bytes

    @property
    def runs(self) -> Runs:
        """Return the strip's runs."""
        return Runs(_unpacked(self.lengths, np.int32), _unpacked(self.nodes, np.int32))

    def rim_cells(self, width: int) -> np.ndarray:
        """Return which cells are rim, bool [h, W]."""
        bits = np.unpackbits(_unpacked(self.rim, np.uint8), count=self.rows * width)
        return bits.reshape(self.rows, width).view(bool)


def packed(
    strip: Strip, outline_m: BaseGeometry, frame: MapFrame, graph: ComponentGraph
) -> PackedStrip:
    """Return a strip of a framed map, cells outside of the region left out, added to the graph."""
    known, wanted = region_cells(outline_m, frame, strip.top, len(strip.codes))
    strip.codes[~known] = NODATA
    runs = graph.add(strip.codes, strip.measured)
    rim = wanted & ~known
    rim[:, [0, -1]] = False
    rows = np.arange(strip.top, strip.top + len(rim))
    rim[(rows == 0) | (rows == frame.height - 1)] = False
    rim = np.packbits(rim)
    return PackedStrip(len(strip.codes), *(map(_packed, (runs.lengths, runs.nodes, rim))))


class PackedStrips:
    """Strips in the order they came; beyond `IN_MEMORY` in a file that has no name and no trace."""

    def __init__(self) -> None:
        self.rows = 0
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        weakref.finalize(self, _close, self._file)  # if never taken
        self._sizes: deque[tuple[int, int, int, int]] = deque()

    def append(self, strip: PackedStrip) -> None:
        """Keep a strip.

        Raises:
            ProjectError: the disk for temporary files is full.
        """
        parts = (strip.lengths, strip.nodes, strip.rim)
        with _told():
            for part in parts:
                self._file.write(part)
        lengths, nodes, rim = map(len, parts)
        self._sizes.append((strip.rows, lengths, nodes, rim))
        self.rows += strip.rows

    def taken(self) -> Iterator[PackedStrip]:
        """Yield the strips, once.

        Raises:
            ProjectError: the disk for temporary files is full, or cannot be read.
        """
        try:
            with _told():
                self._file.seek(0)  # the last of them are written only now
            while self._sizes:
                rows, *sizes = self._sizes.popleft()
                with _told():
                    parts = [self._file.read(size) for size in sizes]
                yield PackedStrip(rows, *parts)
        finally:
            _close(self._file)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ProjectError(
            f"cannot write into {tempfile.gettempdir()} ({error.strerror or error}); make room"
            " on its disk, or set TMPDIR to a folder on another one, then run again"
        ) from error


def _close(file: IO[bytes]) -> None:
    with suppress(OSError):  # on a full disk there is something left to write, for nobody
        file.close()


def _packed(values: np.ndarray) -> bytes:
    return zlib.compress(values.tobytes(), level=1)


def _unpacked(values: bytes, dtype: type) -> np.ndarray:
    return np.frombuffer(zlib.decompress(values), dtype)
