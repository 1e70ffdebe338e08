"""Tiles and strips of a TIFF, decoded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Piece(NamedTuple):
    """A decoded tile or strip [h, w, samples] and where it lies; no pixels: never written."""

    pixels: np.ndarray | None
    plane: int
    top: int
    left: int

    @property
    def bytes(self) -> int:
        return 0 if self.pixels is None else self.pixels.nbytes


Key = tuple[int, int, int]


class PieceCache:
    """The last decoded pieces, up to so many bytes and at least one; thread-safe."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._pieces: OrderedDict[Key, Piece] = OrderedDict()
        self._decoding: dict[Key, threading.Event] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Key, decode: Callable[[], Piece]) -> Piece:
        """Return a piece, kept or decoded; a thread waits where another is just decoding it."""
        while True:
            with self._lock:
                if key in self._pieces:
                    self._pieces.move_to_end(key)
                    return self._pieces[key]
                coming = self._decoding.get(key)
                if coming is None:
                    done = self._decoding[key] = threading.Event()
                    break
            coming.wait()
        try:
            piece = decode()
            self._put(key, piece)
            return piece
        finally:
            with self._lock:
                del self._decoding[key]
            done.set()

    def _put(self, key: Key, piece: Piece) -> None:
        with self._lock:
            self._pieces[key] = piece
            self._bytes += piece.bytes
            while self._bytes > self._most_bytes and len(self._pieces) > 1:
                _, dropped = self._pieces.popitem(last=False)
                self._bytes -= dropped.bytes


def touched(
    piece: tuple[int, int], level: tuple[int, int], x: int, y: int, width: int, height: int
) -> list[tuple[int, int]]:
    """Return rows and columns of a level's pieces that a box touches; sizes are (height, width)."""
    down, across = (-(-whole // part) for whole, part in zip(level, piece, strict=True))
    rows = range(y // piece[0], min(-(-(y + height) // piece[0]), down))
    columns = range(x // piece[1], min(-(-(x + width) // piece[1]), across))
    return [(row, column) for row in rows for column in columns]


def paste(piece: Piece, channel: int, out: np.ndarray, x: int, y: int) -> None:
    """Copy the part of a piece that lies in `out`, whose corner is at (x, y)."""
    height, width, planes = out.shape
    first = channel + piece.plane
    if piece.pixels is None or first >= planes:  # never written, or an alpha not to be used
        return
    piece_height, piece_width = piece.pixels.shape[:2]
    y0, y1 = max(y, piece.top), min(y + height, piece.top + piece_height)
    x0, x1 = max(x, piece.left), min(x + width, piece.left + piece_width)
    part = piece.pixels[y0 - piece.top : y1 - piece.top, x0 - piece.left : x1 - piece.left]
    part = part[..., : planes - first]
    out[y0 - y : y1 - y, x0 - x : x1 - x, first : first + part.shape[2]] = part
