"""QuPath's object hierarchy in Java: reading annotations, replacing detections, suggestions."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import jpype
import numpy as np
import shapely

from qupath_bridge.detections import Detection
from qupath_bridge.feature_lines import MEASUREMENTS, measurements_of
from qupath_bridge.project.base import Annotation, Suggestion
from qupath_bridge.project.geojson_objects import read_annotations
from qupath_bridge.project.jvm import java_class
from qupath_bridge.suggestions import IGNORED_CLASS, IGNORED_COLOR

CHUNK = 5000
PREFIX = "PathSegDiff: "
"""What the names of our measurements of annotations begin with."""


def annotations_in(hierarchy: Any) -> list[tuple[Any, Annotation]]:
    """Return the annotations, wherever they are nested, each with its Java object.

    They are read from the same GeoJSON that QuPath exports, so that both faces of a project see
    the same.
    """
    objects = list(hierarchy.getAnnotationObjects())
    features = [_feature_of(item) for item in objects]
    return list(zip(objects, read_annotations(features), strict=True))


def detection_ids_in(hierarchy: Any) -> list[str]:
    """Return the ids of all detections."""
    return [str(item.getID()) for item in hierarchy.getDetectionObjects()]


def remove_detections(hierarchy: Any, is_replaced: Callable[[str], bool]) -> None:
    """Take out the detections whose ids say so; what was nested in them moves up."""
    remove_objects(i for i in hierarchy.getDetectionObjects() if is_replaced(str(i.getID())))


def remove_objects(items: Iterable[Any]) -> None:
    """Take objects out of their hierarchy; what was nested in them moves up."""
    going = {item: item.getParent() for item in items}
    orphans = [(child, item) for item in going for child in _children(item) if child not in going]
    by_parent = defaultdict(list)
    for item, parent in going.items():
        by_parent[parent].append(item)
    for parent, items in by_parent.items():
        parent.removeChildObjects(java_class("java.util.ArrayList")(items))
    for child, parent in orphans:
        while parent in going:
            parent = going[parent]
        parent.addChildObject(child)


def add_detections(
    hierarchy: Any, parents: Mapping[str, Any], detections: Iterable[Detection]
) -> None:
    """Add detections below the annotations of their regions' ids, else at the root.

    Some thousand at a time are in Python's memory; Java holds them all.
    """
    remaining = iter(detections)
    while chunk := list(islice(remaining, CHUNK)):
        _add_chunk(hierarchy, parents, chunk)
    hierarchy.fireHierarchyChangedEvent(hierarchy)


def _add_chunk(hierarchy: Any, parents: Mapping[str, Any], detections: Sequence[Detection]) -> None:
    children = defaultdict(list)
    for detection, item in zip(detections, _detection_objects(detections), strict=True):
        children[detection.region_id].append(item)
    for region_id, items in children.items():
        parent = parents.get(region_id, hierarchy.getRootObject())
        parent.addChildObjects(java_class("java.util.ArrayList")(items))


def add_suggestions(hierarchy: Any, suggestions: Sequence[Suggestion]) -> None:
    """Add suggestions at the root, locked, so that no brush that begins in one changes it."""
    create = java_class("qupath.lib.objects.PathObjects").createAnnotationObject
    uuid_of = java_class("java.util.UUID").fromString
    ignored = path_class(IGNORED_CLASS, IGNORED_COLOR) if suggestions else None
    items = []
    for suggestion, roi in zip(suggestions, _rois(suggestions), strict=True):
        item = create(roi, ignored)
        item.setID(uuid_of(suggestion.id))
        item.setName(suggestion.name)
        item.setLocked(True)
        set_measurements(item, suggestion.measurements)
        items.append(item)
    hierarchy.getRootObject().addChildObjects(java_class("java.util.ArrayList")(items))
    hierarchy.fireHierarchyChangedEvent(hierarchy)


def set_measurements(item: Any, values: Mapping[str, float]) -> None:
    """Give an annotation exactly these measurements of ours; those of others stay."""
    with closing(item.getMeasurementList()) as measurements:
        names = [str(name) for name in measurements.getMeasurementNames()]
        gone = [name for name in names if name.startswith(PREFIX) and name not in values]
        for name in gone:
            measurements.remove(name)
        for name, value in values.items():
            measurements.put(name, float(value))


def path_class(name: str, color: tuple[int, int, int]) -> Any:
    """Return QuPath's one class of that name; the colour counts only if the class is new."""
    packed = java_class("qupath.lib.common.ColorTools").packRGB(*color)
    return java_class("qupath.lib.objects.classes.PathClass").fromString(
        name, java_class("java.lang.Integer").valueOf(packed)
    )


def _feature_of(item: Any) -> dict[str, Any]:
    gson = java_class("qupath.lib.io.GsonTools").getInstance()
    try:
        return dict(json.loads(str(gson.toJson(item))))
    except jpype.JException:
        # QuPath 0.6 and newer throw on some invalid shapes: then it is an annotation of none.
        properties = {"objectType": "annotation", "name": item.getName() and str(item.getName())}
        return {"id": str(item.getID()), "properties": properties}


def _detection_objects(detections: Sequence[Detection]) -> Iterator[Any]:
    create = java_class("qupath.lib.objects.PathObjects").createDetectionObject
    classes = {(d.class_name, d.color) for d in detections}
    path_classes = {key: path_class(*key) for key in classes}
    names = {head: jpype.JString(head) for head in {d.head for d in detections}}
    uuid_of = java_class("java.util.UUID").fromString
    keys = {name: jpype.JString(name) for name in MEASUREMENTS}
    for detection, roi in zip(detections, _rois(detections), strict=True):
        item = create(roi, path_classes[detection.class_name, detection.color])
        item.setID(uuid_of(detection.id))
        item.setName(names[detection.head])
        measurements = item.getMeasurementList()
        for name, value in measurements_of(detection).items():
            measurements.put(keys[name], value)
        measurements.close()
        yield item


def _rois(objects: Sequence[Detection | Suggestion]) -> Iterator[Any]:
    """Yield QuPath's shapes of objects: real holes where there are some, plain else.

    Plain polygons go over as arrays of coordinates, several times faster than as geometries.
    """
    plane = java_class("qupath.lib.regions.ImagePlane").getDefaultPlane()
    create = java_class("qupath.lib.roi.ROIs").createPolygonROI
    doubles, octets = jpype.JArray(jpype.JDouble), jpype.JArray(jpype.JByte)
    tools = java_class("qupath.lib.roi.GeometryTools")
    reader = java_class("org.locationtech.jts.io.WKBReader")(tools.getDefaultFactory())
    outlines = np.array([item.outline_l0 for item in objects], dtype=object)
    holed = shapely.get_num_interior_rings(outlines) > 0
    x, y = np.ascontiguousarray(shapely.get_coordinates(outlines).T)
    stops = np.cumsum(shapely.get_num_coordinates(outlines)).tolist()
    start = 0
    wkbs = iter(shapely.to_wkb(outlines[holed]))
    for has_holes, stop in zip(holed.tolist(), stops, strict=True):
        if has_holes:
            yield tools.geometryToROI(reader.read(octets(next(wkbs))), plane)
        else:  # without the last point, which repeats the first
            yield create(doubles(x[start : stop - 1]), doubles(y[start : stop - 1]), plane)
        start = stop


def _children(item: Any) -> list[Any]:
    return list(item.getChildObjects()) if item.hasChildObjects() else []
