"""QuPath's GeoJSON objects, read as annotations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from shapely.geometry import (
    GeometryCollection,
    LineString,
    MultiLineString,
    MultiPoint,
    MultiPolygon,
    Point,
    Polygon,
)
from shapely.geometry.base import BaseGeometry

from qupath_bridge.project.base import Annotation
from qupath_bridge.project.classlist import rgb_of

ANNOTATION_TYPES = {"annotation", "pathannotationobject", "unknown"}
CHILDREN = ("childObjects", "children")


def read_annotations(content: Any) -> list[Annotation]:
    """Return the annotations in a FeatureCollection, a list of features, or one feature.

    Objects of other types are left out. One without an id gets one that follows from its shape.

    Raises:
        ValueError: the content is none of these, or a feature in it is malformed.
    """
    annotations: list[Annotation] = []
    for number, feature in enumerate(_features(content), start=1):
        try:
            annotations.extend(_annotations_of(feature))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(f"object {number}: {error or type(error).__name__}") from error
    return _with_distinct_ids(annotations)


def read_geometry(raw: Any) -> BaseGeometry:
    """Return a GeoJSON geometry, in level-0 pixels.

    It may be invalid. A polygon of too few points comes as the line or point it is, and one with
    a coordinate that is not a number comes empty.
    """
    if not raw:
        return Polygon()
    kind = raw["type"]
    if kind == "GeometryCollection":
        return GeometryCollection([read_geometry(part) for part in raw["geometries"]])
    coordinates = raw["coordinates"]
    if not _all_finite(coordinates):
        return Polygon()
    if kind == "Polygon":
        return _polygon(coordinates)
    if kind == "MultiPolygon":
        return _polygons(coordinates)
    if not coordinates:
        return Polygon()
    if kind == "LineString":
        return _line(_ring(coordinates))
    if kind == "MultiLineString":
        return MultiLineString([_ring(line) for line in coordinates])
    if kind == "MultiPoint":
        return MultiPoint(_ring(coordinates))
    if kind == "Point":
        return Point(_ring([coordinates])[0])
    raise ValueError(f"geometry of unknown type {kind!r}")


def _features(content: Any) -> list[Any]:
    if isinstance(content, Mapping) and content.get("type") == "Feature":
        return [content]
    if isinstance(content, Mapping):
        content = content.get("features")
    if not isinstance(content, list):
        raise ValueError("neither a FeatureCollection nor a list of features")
    return content


def _annotations_of(feature: Mapping[str, Any]) -> Iterator[Annotation]:
    """Yield the annotations that a feature and what is nested in it stand for."""
    properties = feature.get("properties") or {}
    if _type_of(feature, properties) in ANNOTATION_TYPES:
        # QuPath's rings begin anywhere and run either way round, from one export to the next.
        geometry = read_geometry(feature.get("geometry")).normalize()
        name = properties.get("name")
        yield Annotation(
            id=_uuid_of(feature.get("id")) or str(uuid5(NAMESPACE_URL, geometry.wkb_hex)),
            name=None if name is None else str(name),
            class_name=_class_name(properties.get("classification")),
            geometry_l0=geometry,
            class_color=_class_color(properties.get("classification")),
        )
    for key in CHILDREN:
        for child in properties.get(key) or []:
            yield from _annotations_of(child)


def _type_of(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> str:
    for key in ("objectType", "object_type", "type"):
        if properties.get(key):
            return str(properties[key]).lower()
    # QuPath 0.2 and 0.3 kept the type where the id is now.
    legacy = str(feature.get("id") or "").lower()
    return legacy if legacy.endswith("object") else "unknown"


def _uuid_of(raw: Any) -> str | None:
    try:
        return str(UUID(str(raw)))
    except ValueError:
        return None


def _class_name(raw: Any) -> str | None:
    if isinstance(raw, Mapping):
        raw = ": ".join(raw["names"]) if raw.get("names") else raw.get("name")
    return str(raw) if raw else None


def _class_color(raw: Any) -> tuple[int, int, int] | None:
    """Return the colour of a classification; QuPath up to 0.3 packed it into one number."""
    if not isinstance(raw, Mapping):
        return None
    color = raw.get("color")
    if isinstance(color, list) and len(color) >= 3:
        red, green, blue = (min(255, max(0, int(part))) for part in color[:3])
        return red, green, blue
    return rgb_of(raw.get("colorRGB"))


def _with_distinct_ids(annotations: list[Annotation]) -> list[Annotation]:
    """Return the annotations; later ones that share an id get one of their own from it."""
    seen: set[str] = set()
    distinct = []
    for annotation in annotations:
        own = annotation.id
        while own in seen:
            own = str(uuid5(NAMESPACE_URL, own))
        seen.add(own)
        distinct.append(replace(annotation, id=own))
    return distinct


def _polygon(rings: list[Any]) -> BaseGeometry:
    outer, *holes = [_ring(ring) for ring in rings] or [[]]
    if len(set(outer)) < 3:
        return _line(outer)
    return Polygon(outer, [hole for hole in holes if len(set(hole)) >= 3])


def _polygons(coordinates: list[Any]) -> BaseGeometry:
    parts = [_polygon(rings) for rings in coordinates]
    return MultiPolygon([part for part in parts if isinstance(part, Polygon) and not part.is_empty])


def _line(points: list[tuple[float, float]]) -> BaseGeometry:
    if not points:
        return Polygon()
    return LineString(points) if len(set(points)) > 1 else Point(points[0])


def _ring(raw: list[Any]) -> list[tuple[float, float]]:
    return [(float(point[0]), float(point[1])) for point in raw]


def _all_finite(coordinates: Any) -> bool:
    if isinstance(coordinates, list):
        return all(map(_all_finite, coordinates))
    return math.isfinite(float(coordinates))
