"""What the server answers, as JSON schemas."""

from __future__ import annotations

from typing import Any

from qupath_bridge.jobs.job import STATES
from qupath_bridge.jobs.request import KINDS

Tree = dict[str, Any]
TEXT: Tree = {"type": "string"}
TEXT_OR_NULL: Tree = {"type": ["string", "null"]}
NUMBER: Tree = {"type": "number"}
COUNT: Tree = {"type": "integer", "minimum": 0}
COUNT_OR_NULL: Tree = {"type": ["integer", "null"], "minimum": 0}
TRUTH: Tree = {"type": "boolean"}
COLOR: Tree = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 255},
    "minItems": 3,
    "maxItems": 3,
}


def _object(**properties: Tree) -> Tree:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: Tree) -> Tree:
    return {"type": "array", "items": items}


def _or_null(schema: Tree) -> Tree:
    return {"anyOf": [schema, {"type": "null"}]}


PROBLEM = _object(type=TEXT, title=TEXT, status={"type": "integer"}, detail=TEXT)
PROBLEM["properties"]["folder"] = {
    "type": "string",
    "description": "The folder that the user would have to open to the server for this image.",
}
PROBLEM["properties"]["pointer"] = {
    "type": "string",
    "description": "The JSON pointer (RFC 6901) of the field of the request that is wrong.",
}

MODEL = _object(
    name=TEXT,
    version=TEXT,
    pixelSizeMicrons=NUMBER,
    default=TRUTH,
    heads=_list(
        _object(
            name=TEXT,
            description=TEXT,
            onRequest={"type": "boolean", "description": "Runs only when it is named."},
            classes=_list(_object(name=TEXT, color=COLOR, detections=TRUTH)),
        )
    ),
)
SEGMENTED = _object(
    regions=COUNT,
    objects=COUNT,
    classes=_list(
        {
            "type": "object",
            "properties": {
                "head": TEXT,
                "class": TEXT,
                "color": COLOR,
                "areaUm2": NUMBER,
                "percent": NUMBER,
                "objects": COUNT,
            },
            "required": ["head", "class", "color", "areaUm2", "percent", "objects"],
        }
    ),
)
TRAINED = _object(
    model=TEXT,
    head=TEXT,
    meanDice={"type": ["number", "null"]},
    trainImages=COUNT,
    heldOutImages=COUNT,
)
JOB = _object(
    id=TEXT,
    kind={"enum": list(KINDS)},
    state={"enum": list(STATES)},
    place=COUNT_OR_NULL | {"description": "0 runs, 1 comes next; null when finished."},
    stage=TEXT_OR_NULL,
    tilesDone=COUNT,
    tilesTotal=COUNT_OR_NULL,
    secondsLeft=COUNT_OR_NULL,
    image=_object(name=TEXT, uri=TEXT),
    model=TEXT,
    heads=_list(TEXT),
    created=TEXT,
    started=TEXT_OR_NULL,
    finished=TEXT_OR_NULL,
    error=_or_null(_object(type=TEXT, message=TEXT)),
    warnings=_list(TEXT),
    result={"anyOf": [SEGMENTED, TRAINED, {"type": "null"}]},
    links=_object(
        self=TEXT, detections=TEXT_OR_NULL, classAreas=TEXT_OR_NULL, overlay=TEXT_OR_NULL
    ),
)
ANSWERS: Tree = {
    "Problem": PROBLEM,
    "Health": _object(name=TEXT, version=TEXT, device=TEXT, ready=TRUTH),
    "Models": _object(models=_list(MODEL)),
    "Document": {"type": "object"},
    "Code": _object(code=TEXT, url=TEXT),
    "Session": _object(token=TEXT),
    "Job": JOB,
    "Jobs": _object(jobs=_list({"$ref": "#/components/schemas/Job"})),
    "FeatureCollection": _object(
        type={"const": "FeatureCollection"}, features=_list({"type": "object"})
    ),
    "ClassAreas": _object(
        rows=_list({"type": "object"}),
        measurements={"type": "object", "additionalProperties": {"type": "object"}},
        heads=_list(TEXT),
        regionIds=_list(TEXT),
    ),
}
"""The schemas of answers by name."""
