"""Suggestions: annotations of ours that say where to annotate next.

Squares of class `Ignore*`, which neither `run` nor `train` takes for tissue to learn from, named
"Annotate next 1" and so on. One is ours to replace only as long as nobody has touched it: name,
class and corners are as we wrote them. What was given another class, name or shape is the user's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shapely.geometry import Polygon, mapping
from shapely.geometry.base import BaseGeometry

from qupath_bridge.detections import is_suggestion, suggestion_id
from qupath_bridge.disk import write_text
from qupath_bridge.errors import ProjectError
from qupath_bridge.geometry import is_box
from qupath_bridge.project.base import Annotation, Suggestion

IGNORED_CLASS = "Ignore*"
IGNORED_COLOR = (180, 180, 180)
NAME = "Annotate next"
UNCERTAINTY, NOVELTY = "PathSegDiff: Uncertainty", "PathSegDiff: Novelty"


def make_suggestion(
    number: int, square_l0: Polygon, uncertainty: float, novelty: float | None
) -> Suggestion:
    """Return the `number`-th suggestion; the square's corners are on whole level-0 pixels."""
    measurements = {UNCERTAINTY: round(float(uncertainty), 6)}
    if novelty is not None:
        measurements[NOVELTY] = round(float(novelty), 6)
    return Suggestion(_id_of(square_l0), f"{NAME} {number}", square_l0, measurements)


def is_untouched(annotation: Annotation) -> bool:
    """Return whether an annotation is a suggestion of ours, just as we wrote it."""
    return (
        is_suggestion(annotation.id)
        and annotation.class_name == IGNORED_CLASS
        and (annotation.name or "").startswith(f"{NAME} ")
        and is_box(annotation.geometry_l0)
        and annotation.id == _id_of(annotation.geometry_l0)
    )


def suggestions_path(project_folder: Path, entry_id: str) -> Path:
    """Return where an image's suggestions are for QuPath to import."""
    return project_folder / "pathsegdiff" / entry_id / "suggestions.geojson"


def write_suggestions(path: Path, suggestions: Sequence[Suggestion]) -> None:
    """Write suggestions as the GeoJSON that QuPath imports; of none no file is left.

    Raises:
        ProjectError: the system refused to write.
    """
    features = [_feature(suggestion) for suggestion in suggestions]
    text = json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False)
    try:
        if not suggestions:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProjectError(
            f"cannot write {path} ({error.strerror}); make its folder writable"
        ) from error
    write_text(path, text + "\n")


def _id_of(square_l0: BaseGeometry) -> str:
    return suggestion_id(" ".join(f"{corner:.2f}" for corner in square_l0.bounds).encode())


def _feature(suggestion: Suggestion) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": suggestion.id,
        "geometry": mapping(suggestion.outline_l0),
        "properties": {
            "objectType": "annotation",
            "name": suggestion.name,
            "classification": {"name": IGNORED_CLASS, "color": list(IGNORED_COLOR)},
            "isLocked": True,
            "measurements": dict(suggestion.measurements),
        },
    }
