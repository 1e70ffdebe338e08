"""Some objects <-> bytes with a checksum, for the spool: read ten times as fast as GeoJSON.

CRC-32 of the rest . length of the header . of the outlines . header (JSON: a row for each object,
the length of its outline last) . outlines (WKB), one after the other
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, BinaryIO

import shapely

from qupath_bridge.detections import Detection

LENGTHS = struct.Struct("<III")


def record(objects: Sequence[Detection]) -> bytes:
    """Return objects as bytes.

    Raises:
        ValueError: a number is not finite.
    """
    outlines = shapely.to_wkb([d.outline_l0 for d in objects])
    rows = [_row(d, len(wkb)) for d, wkb in zip(objects, outlines, strict=True)]
    header = json.dumps(rows, separators=(",", ":"), allow_nan=False).encode()
    body = b"".join([header, *outlines])
    return LENGTHS.pack(zlib.crc32(body), len(header), len(body) - len(header)) + body


def read_record(file: BinaryIO) -> list[Detection]:
    """Return the objects of the next record, the very same; none at the end of the file.

    Raises:
        OSError: the file cannot be read. ValueError: it is damaged.
    """
    start = file.read(LENGTHS.size)
    if not start:
        return []
    if len(start) < LENGTHS.size:
        raise ValueError("cut off")
    checksum, header_bytes, outline_bytes = LENGTHS.unpack(start)
    body = file.read(header_bytes + outline_bytes)
    if zlib.crc32(body) != checksum:
        raise ValueError("damaged or cut off")
    rows = json.loads(body[:header_bytes])
    ends = accumulate((row[-1] for row in rows), initial=header_bytes)
    outlines = shapely.from_wkb([body[begin:end] for begin, end in pairwise(ends)])
    return [_detection(row, outline) for row, outline in zip(rows, outlines, strict=True)]


def _row(d: Detection, outline_bytes: int) -> tuple[object, ...]:
    named = d.id, d.head, d.region_id, d.class_name, d.color
    return *named, d.area_um2, d.mean_probability, d.mean_entropy, outline_bytes


def _detection(row: Sequence[Any], outline_l0: shapely.Polygon) -> Detection:
    object_id, head, region_id, class_name, (red, green, blue), *measured, _ = row
    named = object_id, head, region_id, class_name, (red, green, blue)
    return Detection(*named, outline_l0, *measured)
