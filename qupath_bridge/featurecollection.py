"""Detections <-> the GeoJSON that QuPath imports.

One feature a line, written and read one by one: a slide can have a million.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import TextIO

import shapely

from qupath_bridge.detections import Detection
from qupath_bridge.disk import replacing
from qupath_bridge.errors import ProjectError
from qupath_bridge.feature_lines import (
    checked,
    detection_of_line,
    detection_or_raw,
    feature_lines,
)

START, END = '{"type":"FeatureCollection","features":[', "]}"
GZIP_LEVEL = 5
UNREADABLE = (
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    shapely.errors.ShapelyError,
)


def write_detections(path: Path, detections: Iterable[Detection]) -> None:
    """Write detections as a FeatureCollection, whole or not at all; gzipped into a .gz.

    Raises:
        ProjectError: the system refused to write.
    """
    with replacing(path) as beside:
        write_collection(beside, detections, gzipped=path.suffix == ".gz")


def write_collection(path: Path, detections: Iterable[Detection], gzipped: bool = False) -> None:
    """Write detections as a FeatureCollection; what was there is lost at once."""
    with _written(path, gzipped) as stream:
        stream.write(START)
        for number, feature in enumerate(feature_lines(detections)):
            stream.write(",\n" if number else "\n")
            stream.write(feature)
        stream.write(f"\n{END}\n")


def iter_detections(path: Path) -> Iterator[Detection]:
    """Yield the detections in a file that `write_detections` wrote, read line by line.

    If the file was laid out anew since, it is read whole. What is wrong with it shows when it
    is reached, an end that is missing last of all.

    Raises:
        ProjectError: the file cannot be read, or holds anything but our detections.
    """
    done = 0
    with suppress(*UNREADABLE), _opened(path) as stream:
        for detection in _by_line(stream):
            yield detection
            done += 1
        return
    yield from islice(read_detections(path), done, None)


def read_detections(path: Path) -> list[Detection]:
    """Return the detections in a file that `write_detections` wrote, however laid out since.

    Raises:
        ProjectError: the file cannot be read, or holds anything but our detections.
    """
    try:
        with _opened(path) as stream:
            # Each feature shrinks to its detection as soon as it is parsed.
            content = json.load(stream, object_hook=detection_or_raw)
        if content["type"] != "FeatureCollection":
            raise ValueError(f"its type is {content['type']!r}")
        return [checked(item) for item in content["features"]]
    except UNREADABLE as error:
        raise ProjectError(
            f"{path} holds no detections that can be read ({type(error).__name__}: {error});"
            " restore it, or remove it and run again with --restart"
        ) from error


def _by_line(lines: Iterator[str]) -> Iterator[Detection]:
    """Yield detections of a file's lines.

    Raises:
        ValueError: it is cut off, or laid out otherwise.
    """
    if next(lines, "").rstrip() != START:
        raise ValueError("it begins otherwise")
    follows = None  # whether a feature must follow; before the first one, it may
    for line in map(str.rstrip, lines):
        if line == END and not follows and not any(map(str.strip, lines)):
            return
        if follows is False:
            raise ValueError("it goes on after its last feature")
        follows = line.endswith(",")
        yield detection_of_line(line.removesuffix(","))
    raise ValueError("it has no end")


@contextmanager
def _written(path: Path, gzipped: bool) -> Iterator[TextIO]:
    """Give what takes text; gzipped, equal texts make equal files."""
    with path.open("wb") as raw, ExitStack() as stack:
        packed = gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0) if gzipped else raw
        if gzipped:
            stack.enter_context(packed)
        yield stack.enter_context(TextIOWrapper(packed, encoding="utf-8", newline="\n"))


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")
