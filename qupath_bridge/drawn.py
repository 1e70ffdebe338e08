"""What was drawn, made ready to be learned from: which classes count, points and lines as areas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import shapely
from shapely.geometry.base import BaseGeometry

from model.classes import trains
from qupath_bridge.geometry import Scale
from qupath_bridge.project import Annotation

NAMES_SHOWN = 5


class Radii(NamedTuple):
    """How far around a point and to either side of a line its area reaches, model pixels."""

    point_m: float
    line_m: float


def that_train(annotations: Sequence[Annotation], say: Callable[[str], None]) -> list[Annotation]:
    """Return the annotations of classes that train; say which do not."""
    left_out = [a for a in annotations if not _trains(a)]
    if left_out:
        names = [f'"{a.name or a.class_name or "unnamed"}"' for a in left_out[:NAMES_SHOWN]]
        more = ", ..." if len(left_out) > NAMES_SHOWN else ""
        say(
            f"{len(left_out)} annotations do not train, having no class or one that ends with *:"
            f" {', '.join(names)}{more}"
        )
    return [a for a in annotations if _trains(a)]


def _trains(annotation: Annotation) -> bool:
    name = annotation.class_name
    return name not in (None, "", "Unclassified") and trains(str(name))


def as_area(annotation: Annotation, scale: Scale, radii: Radii) -> Annotation:
    """Return an annotation whose points are discs and whose lines are strips; areas stay."""
    geometry = annotation.geometry_l0
    if geometry.is_empty or geometry.geom_type in ("Polygon", "MultiPolygon"):
        return annotation
    # In model pixels, which are square: a disc is round on a slide of oblong pixels too.
    parts = [_grown(part, radii) for part in _simple_parts(scale.to_m(geometry))]
    return replace(annotation, geometry_l0=scale.to_l0(shapely.unary_union(parts)))


def _grown(part: BaseGeometry, radii: Radii) -> BaseGeometry:
    if part.geom_type == "Point":
        return part.buffer(radii.point_m)
    if part.geom_type in ("LineString", "LinearRing"):
        return part.buffer(radii.line_m)
    return shapely.make_valid(part, method="structure", keep_collapsed=False)


def _simple_parts(geometry: BaseGeometry) -> Iterator[BaseGeometry]:
    """Yield the parts of a geometry that have none, however they are nested."""
    for part in shapely.get_parts(geometry):
        if hasattr(part, "geoms"):
            yield from _simple_parts(part)
        else:
            yield part
