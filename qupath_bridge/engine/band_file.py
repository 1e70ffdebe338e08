"""A fused band <-> bytes, with a checksum: for checkpoints, and from one machine to another.

b"PSDB2\\n" . CRC-32 of the rest . length of the header . header (JSON) . for each piece of a map:
codes (zlib), then of the cells with data probability and entropy (uint16)
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from qupath_bridge.classmap import NODATA, ClassMap, no_cells
from qupath_bridge.engine.fused import FusedBand, is_bare

MAGIC = b"PSDB2\n"
LENGTHS = struct.Struct("<II")
LAYER = np.dtype("<u2")


def packed(band: FusedBand) -> bytes:
    """Return a band as bytes; equal bands give equal bytes."""
    pieces, blobs = [], []
    for (part, head), maps in band.maps.items():
        for rows in maps:
            blob = b"" if is_bare(rows) else _cells(rows)
            height, width = rows.codes.shape
            pieces.append([part, head, rows.x_m, rows.y_m, rows.cell_m, height, width, len(blob)])
            blobs.append(blob)
    keys = list(band.maps)  # a part may have no rows in a band
    header = json.dumps([band.undecodable, keys, pieces], separators=(",", ":")).encode()
    body = b"".join([header, *blobs])
    return MAGIC + LENGTHS.pack(zlib.crc32(body), len(header)) + body


def unpacked(content: bytes) -> FusedBand:
    """Return the band that bytes hold.

    Raises:
        ValueError: they are damaged, or none of this kind.
    """
    start = len(MAGIC) + LENGTHS.size
    if content[: len(MAGIC)] != MAGIC or len(content) < start:
        raise ValueError("no band, or one of another version")
    checksum, header_bytes = LENGTHS.unpack(content[len(MAGIC) : start])
    body = memoryview(content)[start:]
    if zlib.crc32(body) != checksum:
        raise ValueError("damaged")
    undecodable, keys, pieces = json.loads(bytes(body[:header_bytes]))
    band = FusedBand({(part, head): [] for part, head in keys}, undecodable)
    for key, rows in _maps(pieces, body[header_bytes:]):
        band.maps[key].append(rows)
    return band


def _cells(rows: ClassMap) -> bytes:
    codes = np.ascontiguousarray(rows.codes)
    seen = codes != NODATA
    squeezed = zlib.compress(codes.data, level=1)
    layers = [layer[seen].astype(LAYER).tobytes() for layer in (rows.probability, rows.entropy)]
    return b"".join([len(squeezed).to_bytes(4, "little"), squeezed, *layers])


def _maps(pieces: Any, blobs: memoryview) -> Iterator[tuple[tuple[int, str], ClassMap]]:
    place = 0
    for part, head, x_m, y_m, cell_m, height, width, size in pieces:
        layers = _layers(blobs[place : place + size], (height, width))
        place += size
        yield (part, head), ClassMap(*layers, x_m, y_m, cell_m)


def _layers(blob: memoryview, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not blob:
        return no_cells(shape)
    end = 4 + int.from_bytes(blob[:4], "little")
    codes = np.frombuffer(zlib.decompress(blob[4:end]), np.uint8).reshape(shape)
    seen = codes != NODATA
    count = int(np.count_nonzero(seen))
    layers = np.zeros((2, *shape), np.uint16)
    layers[:, seen] = np.frombuffer(blob[end:], LAYER).reshape(2, count)
    return codes, *layers
