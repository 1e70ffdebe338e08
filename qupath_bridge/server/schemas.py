"""What a request for a job may hold, as JSON schemas; parse_job is the judge."""

from __future__ import annotations

from typing import Any

from qupath_bridge.jobs import RequestLimits
from qupath_bridge.jobs.request import KINDS, LONGEST_NAME, MOST_HEADS, RANGES, REGIONS

Tree = dict[str, Any]
UNITS = {
    "minObjectUm2": "um2; smaller objects are merged into what surrounds them.",
    "minHoleUm2": "um2; smaller holes are filled.",
    "simplifyUm": "um; how far outlines may move.",
    "overlap": "Share of a tile that its neighbour covers too.",
}


def request_schemas(limits: RequestLimits) -> Tree:
    """Return the schemas of requests by name."""
    segment, train = KINDS
    return {
        "Request": {
            "oneOf": [_reference("SegmentRequest"), _reference("TrainRequest")],
            "discriminator": {
                "propertyName": "kind",
                "mapping": {
                    segment: "#/components/schemas/SegmentRequest",
                    train: "#/components/schemas/TrainRequest",
                },
            },
        },
        "SegmentRequest": _object(
            {
                "kind": {"const": segment},
                "image": _reference("Image"),
                "regions": _or_null(_reference("Regions")),
                "model": _or_null(_text(LONGEST_NAME)),
                "heads": _or_null(_heads(MOST_HEADS)),
                "options": _or_null(_reference("SegmentOptions")),
            },
            ("kind", "image"),
        ),
        "SegmentOptions": _segment_options(),
        "TrainRequest": _train(train),
        "TrainOptions": _train_options(),
        "Sample": _object(
            {"image": _reference("Image"), "regions": _or_null(_reference("Regions"))}, ("image",)
        ),
        "Image": _image(),
        "Regions": _regions(limits),
    }


def _segment_options() -> Tree:
    ranges = {
        key: {
            "type": ["number", "null"],
            "minimum": low,
            "maximum": high,
            "description": UNITS[key],
        }
        for key, (_, low, high) in RANGES.items()
    }
    return _object({"regions": {"enum": [*REGIONS, None]}, **ranges})


def _train(kind: str) -> Tree:
    samples = {"type": "array", "minItems": 1, "items": _reference("Sample")}
    heads = _heads(1)
    heads["items"] = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$"}
    schema = _object(
        {
            "kind": {"const": kind},
            "samples": samples,
            "image": _reference("Image"),
            "regions": _or_null(_reference("Regions")),
            "model": {
                "type": "string",
                "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
                "description": "The new model, or one of yours that gets another head.",
            },
            "heads": heads,
            "options": _or_null(_reference("TrainOptions")),
        },
        ("kind", "model", "heads"),
    )
    schema["oneOf"] = [{"required": ["samples"]}, {"required": ["image", "regions"]}]
    return schema


def _train_options() -> Tree:
    return _object(
        {
            "base": _or_null(_text(LONGEST_NAME)),
            "steps": {"type": ["integer", "null"], "minimum": 1, "maximum": 100_000},
            "pointRadiusUm": {"type": ["number", "null"], "minimum": 0.01, "maximum": 1000},
            "finetune": {"type": ["boolean", "null"]},
        }
    )


def _image() -> Tree:
    side = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1, "description": "Pixels."}
    micrometres = {"type": "number", "minimum": 0, "maximum": 1e9}
    size = _object({"w": micrometres, "h": micrometres}, ("w", "h"))
    return _object(
        {
            "uri": _text() | {"description": "A file: URI, or a path, on the server's machine."},
            "name": _text(),
            "width": side,
            "height": side,
            "pixelSizeMicrons": _or_null(size),
            "serverBuilder": {"description": "As QuPath's project file has it."},
            "imageType": _or_null(_text()),
            "entryID": _or_null(_text(LONGEST_NAME)),
            "project": _or_null(_text()),
        },
        ("uri", "name", "width", "height"),
    )


def _regions(limits: RequestLimits) -> Tree:
    feature = {
        "type": "object",
        "properties": {
            "type": {"const": "Feature"},
            "geometry": {"type": ["object", "null"]},
            "properties": {"type": ["object", "null"]},
        },
        "required": ["type"],
    }
    return {
        "type": "object",
        "description": f"Annotations as QuPath exports them; at most {limits.regions}, of at most"
        f" {limits.vertices} vertices in all. Null: the tissue.",
        "properties": {
            "type": {"const": "FeatureCollection"},
            "features": {"type": "array", "items": feature},
        },
        "required": ["type", "features"],
    }


def _heads(most: int) -> Tree:
    return {
        "type": "array",
        "minItems": int(most == 1),
        "maxItems": most,
        "items": _text(LONGEST_NAME),
    }


def _object(properties: Tree, required: tuple[str, ...] = ()) -> Tree:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _text(most: int = 4096) -> Tree:
    return {"type": "string", "minLength": 1, "maxLength": most}


def _or_null(schema: Tree) -> Tree:
    return {"anyOf": [schema, {"type": "null"}]}


def _reference(name: str) -> Tree:
    return {"$ref": f"#/components/schemas/{name}"}
