"""What QuPath's description of an image server says: which file, and whether it is shown as it is.

A server builder is a JSON object with a `builderType`. Only `uri` names a file; every other type
wraps one builder or several and changes what the image shows. What is wrapped is refused by name,
since segmenting the file behind it would put every outcome in the wrong place or colour.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from qupath_bridge.geometry import Mpp

WRAPPERS = {
    "rotated": "rotated by QuPath",
    "flipped": "flipped by QuPath",
    "cropped": "cropped by QuPath",
    "affine": "transformed by QuPath",
    "sparse": "put together from parts by QuPath",
    "channels": "put together from channels of several images by QuPath",
    "color": "shown with transformed colours by QuPath",
    "color_deconvolved": "shown as separated stains by QuPath",
    "normalized": "shown with normalised colours by QuPath",
    "swapRedBlue": "shown with reordered colours by QuPath",
    "typeConvert": "shown with a converted pixel type by QuPath",
    "sliced": "a slice of a stack made by QuPath",
    "z_projected": "a projection of a stack made by QuPath",
    "z_concatenated": "a stack of several images made by QuPath",
}
"""builderType -> what it does to the image."""

DETAILS = ("rotation", "flip", "order", "projection", "pixelType")
"""The fields of wrappers that are worth naming."""

HARMLESS = {"ROTATE_NONE", "NONE"}
"""A rotation or flip that does nothing; "pyramidize" only adds coarser levels."""

READERS = {
    "OpenslideServerBuilder",
    "BioFormatsServerBuilder",
    "ImageJServerBuilder",
    "ImageIoImageServerBuilder",
}
EXPORT = "undo that in QuPath, or export the image and add what was exported to the project"


@dataclass(frozen=True)
class ServerSpec:
    """One image's server, read: `unsupported` says what is against it, else None."""

    uri: str | None
    unsupported: str | None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def read_server(builder: Any) -> ServerSpec:
    """Return what a server builder, as JSON, says."""
    if not isinstance(builder, Mapping):
        return ServerSpec(None, "without an image; remove it from the project and add it again")
    kind = builder.get("builderType")
    metadata = _mapping(builder.get("metadata"))
    if kind == "uri":
        uri = str(builder.get("uri") or "")
        return ServerSpec(uri or None, _against_file(uri, builder), metadata)
    inner = builder.get("builder")
    detail = next((str(builder[key]) for key in DETAILS if builder.get(key) is not None), None)
    if kind == "pyramidize" or detail in HARMLESS:
        spec = read_server(inner)
        return ServerSpec(spec.uri, spec.unsupported, metadata or spec.metadata)
    what = WRAPPERS.get(str(kind), f"of a kind this program does not know ({kind})")
    named = f"{what} ({detail})" if detail else what
    return ServerSpec(next(_uris(builder), None), f"{named}; {EXPORT}", metadata)


def against_pixels(metadata: Mapping[str, Any], image_type: str | None) -> str | None:
    """Return what speaks against an image's pixels, else None.

    `image_type` is QuPath's, for instance "BRIGHTFIELD_H_E" or "FLUORESCENCE".
    """
    if image_type == "FLUORESCENCE":
        return "a fluorescence image; only brightfield images can be segmented"
    pixel_type = metadata.get("pixelType")
    if pixel_type not in (None, "UINT8"):
        return f"an image of {pixel_type} pixels; only 8-bit RGB images can be segmented"
    channels = metadata.get("channels")
    if isinstance(channels, Sequence) and not metadata.get("isRGB") and len(channels) != 3:
        return f"an image of {len(channels)} channel(s); only RGB images can be segmented"
    for key, what in (("sizeZ", "z-slices"), ("sizeT", "time points")):
        if (_number(metadata.get(key)) or 1) > 1:
            return f"a stack of {metadata[key]} {what}; only single planes can be segmented"
    return None


def size_of(metadata: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return (width, height) in level-0 pixels, where the metadata says so."""
    width, height = (_number(metadata.get(key)) for key in ("width", "height"))
    if width is None or height is None or not (0 < width < math.inf and 0 < height < math.inf):
        return None
    return int(width), int(height)


def mpp_of(metadata: Mapping[str, Any]) -> Mpp | None:
    """Return the pixel size as the metadata has it, unchecked; None where it is not in um.

    QuPath writes a missing pixel size as one "px" wide.
    """
    calibration = _mapping(metadata.get("pixelCalibration"))
    sides = [_um_of(calibration.get(key)) for key in ("pixelWidth", "pixelHeight")]
    return Mpp(sides[0], sides[1]) if sides[0] is not None and sides[1] is not None else None


def _um_of(quantity: Any) -> float | None:
    quantity = _mapping(quantity)
    unit = str(quantity.get("unit", "")).replace("\N{GREEK SMALL LETTER MU}", "u")
    if unit.replace("\N{MICRO SIGN}", "u").lower() != "um":
        return None
    value = _number(quantity.get("value"))
    return math.nan if value is None else value


def _against_file(uri: str, builder: Mapping[str, Any]) -> str | None:
    if not uri:
        return "without an image file; remove it from the project and add it again"
    if urlsplit(uri).scheme.lower() not in ("file", "") and not re.match(r"[A-Za-z]:", uri):
        return f"not a file but {uri}; download it and add the file to the project"
    reader = str(builder.get("providerClassName") or "").rpartition(".")[2]
    if reader and reader not in READERS:
        return f"opened by {reader}, which this program does not know; {EXPORT}"
    fragment = urlsplit(uri).fragment or urlsplit(uri).query.removeprefix("series=")
    if fragment not in ("", "0"):
        return f"series {fragment} of a file of several images; export that series as its own file"
    return _against_args([str(arg) for arg in builder.get("args") or []])


def _against_args(args: Sequence[str]) -> str | None:
    words = iter(word for arg in args for word in arg.split("=", 1))
    for option in words:
        if option in ("--classname",):
            next(words, None)
        elif option in ("--series", "-s"):
            series = next(words, "")
            if series not in ("0", "-1"):
                return f"series {series} of a file of several images; {EXPORT}"
        elif option == "--rotate":
            rotation = next(words, "")
            if rotation not in HARMLESS:
                return f"rotated by QuPath ({rotation}); {EXPORT}"
        else:
            return f"opened with {' '.join(args)}; {EXPORT}"
    return None


def _uris(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("uri"), str):
            yield value["uri"]
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _uris(part)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
