"""Strips packed until small components are known: in memory, and on disk once they are many."""

from __future__ import annotations

import tempfile
import weakref
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

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

    The rim are cells without a class that get one because the region touches them or nearly so.
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
    rim = wanted & (strip.codes == NODATA)
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
        weakref.finalize(self, self._file.close)  # if never taken
        self._sizes: deque[tuple[int, int, int, int]] = deque()

    def append(self, strip: PackedStrip) -> None:
        """Keep a strip.

        Raises:
            ProjectError: the disk for temporary files is full.
        """
        parts = (strip.lengths, strip.nodes, strip.rim)
        try:
            for part in parts:
                self._file.write(part)
        except OSError as error:
            raise ProjectError(
                f"cannot write into {tempfile.gettempdir()} ({error.strerror or error}); make room"
                " on its disk, or set TMPDIR to a folder on another one, then run again"
            ) from error
        lengths, nodes, rim = map(len, parts)
        self._sizes.append((strip.rows, lengths, nodes, rim))
        self.rows += strip.rows

    def taken(self) -> Iterator[PackedStrip]:
        """Yield the strips, once."""
        with self._file as stream:
            stream.seek(0)
            while self._sizes:
                rows, *sizes = self._sizes.popleft()
                yield PackedStrip(rows, *(stream.read(size) for size in sizes))


def _packed(values: np.ndarray) -> bytes:
    return zlib.compress(values.tobytes(), level=1)


def _unpacked(values: bytes, dtype: type) -> np.ndarray:
    return np.frombuffer(zlib.decompress(values), dtype)
