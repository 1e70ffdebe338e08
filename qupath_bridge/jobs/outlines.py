"""Regions as they come in a request: GeoJSON, checked before anything is built from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shapely.errors import ShapelyError

from qupath_bridge.errors import RequestError
from qupath_bridge.jobs.fields import kind_of, pointer_to, shown, wrong
from qupath_bridge.project.base import Annotation
from qupath_bridge.project.geojson_objects import CHILDREN, read_annotations

NESTING = {
    "Point": 0,
    "MultiPoint": 1,
    "LineString": 1,
    "Polygon": 2,
    "MultiLineString": 2,
    "MultiPolygon": 3,
}
"""How many lists lie around the points of each type of geometry."""

FARTHEST_PX = 1e9
NUMBERS = (int, float)


class Budget:
    """How many regions and vertices may still come.

    Raises:
        RequestError: more came.
    """

    def __init__(self, regions: int, vertices: int) -> None:
        self._most_regions, self._most_vertices = regions, vertices
        self._regions = self._vertices = 0

    def take_region(self) -> None:
        self._regions += 1
        if self._regions > self._most_regions:
            raise RequestError(
                f"there are more than {self._most_regions} regions; send them in several jobs"
            )

    def take_vertices(self, count: int) -> None:
        self._vertices += count
        if self._vertices > self._most_vertices:
            raise RequestError(
                f"the regions have more than {self._most_vertices} vertices in all; simplify them"
                " in QuPath, or send them in several jobs"
            )


def check_regions(raw: Any, pointer: str, budget: Budget) -> None:
    """Check that a FeatureCollection can be read as annotations.

    Raises:
        RequestError: it cannot, or is more than the budget bears.
    """
    if not isinstance(raw, Mapping) or raw.get("type") != "FeatureCollection":
        raise wrong(pointer, "must be a GeoJSON FeatureCollection, or null")
    features = raw.get("features")
    if not isinstance(features, list):
        raise wrong(f"{pointer}/features", f"must be a list, not {kind_of(features)}")
    for number, feature in enumerate(features):
        _check_feature(feature, f"{pointer}/features/{number}", budget)
    read_regions(raw, pointer)


def read_regions(raw: Any, pointer: str = "/regions") -> list[Annotation]:
    """Return the annotations of a FeatureCollection.

    Raises:
        RequestError: one is malformed.
    """
    try:
        return read_annotations(raw)
    except (ValueError, ShapelyError) as error:
        raise wrong(pointer, f"cannot be read as annotations: {error}") from error


def _check_feature(feature: Any, pointer: str, budget: Budget) -> None:
    if not isinstance(feature, Mapping) or feature.get("type") != "Feature":
        raise wrong(pointer, f"must be a GeoJSON Feature, not {kind_of(feature)}")
    budget.take_region()
    if feature.get("geometry") is not None:
        budget.take_vertices(_check_geometry(feature["geometry"], f"{pointer}/geometry"))
    properties = feature.get("properties")
    if properties is not None and not isinstance(properties, Mapping):
        raise wrong(f"{pointer}/properties", f"must be an object, not {kind_of(properties)}")
    for child, at in _children(properties or {}, f"{pointer}/properties"):
        _check_feature(child, at, budget)


def _children(properties: Mapping[str, Any], pointer: str) -> Iterator[tuple[Any, str]]:
    for key in CHILDREN:
        children = properties.get(key) or []
        if not isinstance(children, list):
            raise wrong(f"{pointer}/{key}", f"must be a list, not {kind_of(children)}")
        for number, child in enumerate(children):
            yield child, f"{pointer}/{key}/{number}"


def _check_geometry(raw: Any, pointer: str) -> int:
    """Return how many vertices a geometry has."""
    if not isinstance(raw, Mapping):
        raise wrong(pointer, f"must be a GeoJSON geometry, not {kind_of(raw)}")
    kind = raw.get("type")
    if kind == "GeometryCollection":
        parts = raw.get("geometries")
        if not isinstance(parts, list):
            raise wrong(f"{pointer}/geometries", f"must be a list, not {kind_of(parts)}")
        named = enumerate(parts)
        return sum(_check_geometry(part, f"{pointer}/geometries/{at}") for at, part in named)
    if not isinstance(kind, str) or kind not in NESTING:
        known = ", ".join([*NESTING, "GeometryCollection"])
        raise wrong(f"{pointer}/type", f"must be one of {known}, not {shown(kind)}")
    return _check_points(raw.get("coordinates"), NESTING[kind], f"{pointer}/coordinates")


def _check_points(value: Any, nesting: int, pointer: str) -> int:
    """Return how many points lie in lists nested so deep."""
    if not isinstance(value, list):
        raise wrong(pointer, f"must be a list, not {kind_of(value)}")
    if nesting == 0:
        _check_point(value, pointer)
        return 1
    if nesting > 1:
        return sum(_check_points(v, nesting - 1, f"{pointer}/{n}") for n, v in enumerate(value))
    for number, point in enumerate(value):
        if not isinstance(point, list):
            raise wrong(f"{pointer}/{number}", f"must be a list, not {kind_of(point)}")
        _check_point(point, pointer, number)
    return len(value)


def _check_point(point: list[Any], pointer: str, number: int | None = None) -> None:
    if 2 <= len(point) <= 3:
        for value in point:  # a million times: nothing slower than this
            if type(value) not in NUMBERS or not -FARTHEST_PX <= value <= FARTHEST_PX:
                break
        else:
            return
    at = pointer if number is None else pointer_to(pointer, str(number))
    values = ", ".join(shown(v) for v in point[:4])
    raise wrong(
        at, f"must be a point, two numbers of at most {FARTHEST_PX:g} pixels; it is [{values}]"
    )
