"""Detections <-> the GeoJSON that QuPath imports.

One feature a line, written and read one by one: a slide can have a million. The head is the name;
the region stands in a member of the feature that is ours (RFC 7946, 6.1), which QuPath skips: it
knows our objects by their ids. Earlier files have both in `metadata`, for each of which QuPath 0.5
logs a stack trace; they are still read.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import shapely
from shapely.geometry import Polygon

from qupath_bridge.detections import Detection
from qupath_bridge.disk import replacing
from qupath_bridge.errors import ProjectError

OURS, REGION = "pathsegdiff", "region"
EARLIER_HEAD, EARLIER_REGION = "pathsegdiff.head", "pathsegdiff.region"
AREA, PROBABILITY, ENTROPY = "Area µm^2", "Mean probability", "Mean entropy"
MEASUREMENTS = (AREA, PROBABILITY, ENTROPY)
"""What is measured of a detection, by the names that it has in QuPath."""
CHUNK = 1000
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
    with replacing(path) as beside, _written(beside, path.suffix == ".gz") as stream:
        stream.write('{"type":"FeatureCollection","features":[')
        for number, feature in enumerate(feature_lines(detections)):
            stream.write(",\n" if number else "\n")
            stream.write(feature)
        stream.write("\n]}\n")


def read_detections(path: Path) -> list[Detection]:
    """Return the detections in a file that `write_detections` wrote, however laid out since.

    Raises:
        ProjectError: the file cannot be read, or holds anything but our detections.
    """
    try:
        with _opened(path) as stream:
            # Each feature shrinks to its detection as soon as it is parsed.
            content = json.load(stream, object_hook=_detection_or_raw)
        if content["type"] != "FeatureCollection":
            raise ValueError(f"its type is {content['type']!r}")
        return [_checked(item) for item in content["features"]]
    except UNREADABLE as error:
        raise ProjectError(
            f"{path} holds no detections that can be read ({type(error).__name__}: {error});"
            " restore it, or remove it and run again with --restart"
        ) from error


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


def feature_lines(detections: Iterable[Detection]) -> Iterator[str]:
    """Yield each detection as a Feature, one line of JSON without its end."""
    remaining = iter(detections)
    while chunk := list(islice(remaining, CHUNK)):
        geometries = shapely.to_geojson([detection.outline_l0 for detection in chunk])
        for detection, geometry in zip(chunk, geometries, strict=True):
            start = f'{{"type":"Feature","id":{_json(detection.id)},"geometry":{geometry}'
            ours = _json({REGION: detection.region_id})
            yield f'{start},"properties":{_json(_properties(detection))},"{OURS}":{ours}}}'


def _properties(detection: Detection) -> dict[str, Any]:
    return {
        "objectType": "detection",
        "name": detection.head,
        "classification": {"name": detection.class_name, "color": list(detection.color)},
        "measurements": measurements_of(detection),
    }


def measurements_of(detection: Detection) -> dict[str, float]:
    """Return what is measured of a detection, by QuPath's names."""
    measured = {AREA: detection.area_um2, PROBABILITY: detection.mean_probability}
    if detection.mean_entropy is not None:
        measured[ENTROPY] = detection.mean_entropy
    return measured


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def detection_of_line(line: str | bytes) -> Detection:
    """Return the detection of a line that `feature_lines` gave, the very same.

    Raises:
        ValueError, LookupError, TypeError, shapely.errors.ShapelyError: it is none.
    """
    return _checked(json.loads(line, object_hook=_detection_or_raw))


def _detection_or_raw(raw: dict[str, Any]) -> Detection | dict[str, Any]:
    return _detection_of_feature(raw) if raw.get("type") == "Feature" else raw


def _detection_of_feature(raw: dict[str, Any]) -> Detection:
    properties = raw["properties"]
    classification, measurements = properties["classification"], properties["measurements"]
    red, green, blue = map(int, classification["color"])
    entropy = measurements.get(ENTROPY)
    head, region_id = _origin_of(raw)
    return Detection(
        id=str(raw["id"]),
        head=head,
        region_id=region_id,
        class_name=str(classification["name"]),
        color=(red, green, blue),
        outline_l0=_polygon_of(raw["geometry"]),
        area_um2=float(measurements[AREA]),
        mean_probability=float(measurements[PROBABILITY]),
        mean_entropy=None if entropy is None else float(entropy),
    )


def _origin_of(raw: dict[str, Any]) -> tuple[str, str]:
    """Return a feature's head and the id of its region."""
    properties = raw["properties"]
    if OURS in raw:
        return str(properties["name"]), str(raw[OURS][REGION])
    metadata = properties["metadata"]
    return str(metadata[EARLIER_HEAD]), str(metadata[EARLIER_REGION])


def _polygon_of(geometry: dict[str, Any]) -> Polygon:
    if geometry["type"] != "Polygon":
        raise ValueError(f"a detection is a {geometry['type']}, not a Polygon")
    outer, *holes = geometry["coordinates"]
    return Polygon(outer, holes)


def _checked(item: Any) -> Detection:
    if not isinstance(item, Detection):
        raise TypeError("one of its features is none")
    return item
