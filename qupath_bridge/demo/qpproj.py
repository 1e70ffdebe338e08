"""The JSON of a QuPath project with one image, as QuPath 0.5 writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shapely.geometry import mapping

from qupath_bridge.geometry import Region
from qupath_bridge.project.base import ProjectClass

VERSION = "0.5.1"
OPENSLIDE = "qupath.lib.images.servers.openslide.OpenslideServerBuilder"
CHANNELS = (("Red", (255, 0, 0)), ("Green", (0, 255, 0)), ("Blue", (0, 0, 255)))
REGION_CLASS = ProjectClass("Region*", (0, 0, 180))


@dataclass(frozen=True)
class ImageEntry:
    """The one image of the project: a pyramid halved from level to level."""

    name: str
    path: Path
    level_sizes: Sequence[tuple[int, int]]
    mpp: float
    tile_px: int
    anonymous_name: str


def packed_color(color: tuple[int, int, int]) -> int:
    """Return an opaque colour as QuPath packs it: a signed 32-bit integer, 0xAARRGGBB."""
    red, green, blue = color
    return (255 << 24 | red << 16 | green << 8 | blue) - (1 << 32)


def project_json(project_file: Path, image: ImageEntry, made_ms: int) -> dict[str, Any]:
    """Return the content of a `.qpproj`; the image's id is 1."""
    return {
        "version": VERSION,
        "createTimestamp": made_ms,
        "modifyTimestamp": made_ms,
        "uri": project_file.as_uri(),
        "lastID": 1,
        "images": [
            {
                "serverBuilder": _builder(image),
                "entryID": 1,
                "randomizedName": image.anonymous_name,
                "imageName": image.name,
                "metadata": {},
            }
        ],
    }


def server_json(image: ImageEntry) -> dict[str, Any]:
    """Return the content of an entry's `server.json`."""
    return {"builder": _builder(image), "metadata": _metadata(image)}


def classes_json(classes: Sequence[ProjectClass]) -> dict[str, Any]:
    """Return the content of `classifiers/classes.json`."""
    return {"pathClasses": [{"name": c.name, "color": packed_color(c.color)} for c in classes]}


def regions_json(regions: Sequence[Region]) -> dict[str, Any]:
    """Return annotations as QuPath exports them: a GeoJSON FeatureCollection."""
    return {"type": "FeatureCollection", "features": [_feature(region) for region in regions]}


def _builder(image: ImageEntry) -> dict[str, Any]:
    return {
        "builderType": "uri",
        "providerClassName": OPENSLIDE,
        "uri": image.path.as_uri(),
        "args": [],
        "metadata": _metadata(image),
    }


def _metadata(image: ImageEntry) -> dict[str, Any]:
    width, height = image.level_sizes[0]
    return {
        "name": image.name,
        "width": width,
        "height": height,
        "sizeZ": 1,
        "sizeT": 1,
        "channelType": "DEFAULT",
        "isRGB": True,
        "pixelType": "UINT8",
        "levels": [
            {"downsample": float(2**level), "width": size[0], "height": size[1]}
            for level, size in enumerate(image.level_sizes)
        ],
        "channels": [{"name": n, "color": packed_color(c)} for n, c in CHANNELS],
        "pixelCalibration": {
            "pixelWidth": {"value": image.mpp, "unit": "\N{MICRO SIGN}m"},
            "pixelHeight": {"value": image.mpp, "unit": "\N{MICRO SIGN}m"},
            "zSpacing": {"value": 1.0, "unit": "z-slice"},
            "timeUnit": "SECONDS",
            "timepoints": [],
        },
        "preferredTileWidth": image.tile_px,
        "preferredTileHeight": image.tile_px,
    }


def _feature(region: Region) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": region.id,
        "geometry": mapping(region.outline_l0),
        "properties": {
            "objectType": "annotation",
            "name": region.name,
            "classification": {"name": REGION_CLASS.name, "color": list(REGION_CLASS.color)},
        },
    }
