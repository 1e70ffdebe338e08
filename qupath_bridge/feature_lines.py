"""A detection <-> the GeoJSON feature that QuPath imports, one line of text.

The head is the name; the region stands in a member of the feature that is ours (RFC 7946, 6.1),
which QuPath skips: it knows our objects by their ids. Earlier files have both in `metadata`, for
each of which QuPath 0.5 logs a stack trace; they are still read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import shapely
from shapely.geometry import Polygon

from qupath_bridge.detections import Detection

OURS, REGION = "pathsegdiff", "region"
EARLIER_HEAD, EARLIER_REGION = "pathsegdiff.head", "pathsegdiff.region"
AREA, PROBABILITY, ENTROPY = "Area µm^2", "Mean probability", "Mean entropy"
MEASUREMENTS = (AREA, PROBABILITY, ENTROPY)
"""What is measured of a detection, by the names that it has in QuPath."""
CHUNK = 1000


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


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def detection_of_line(line: str) -> Detection:
    """Return the detection of a line that `feature_lines` gave, the very same.

    Raises:
        ValueError, LookupError, TypeError, shapely.errors.ShapelyError: it is none.
    """
    return checked(json.loads(line, object_hook=detection_or_raw))


def detection_or_raw(raw: dict[str, Any]) -> Detection | dict[str, Any]:
    """Return a JSON object as the detection that it is if it is a feature, else as it is."""
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


def checked(item: Any) -> Detection:
    """Return what should be a detection.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(item, Detection):
        raise TypeError("one of its features is none")
    return item
