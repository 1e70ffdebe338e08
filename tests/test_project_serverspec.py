"""What image servers are segmented, and what is refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from qupath_bridge.geometry import Mpp
from qupath_bridge.project.serverspec import against_pixels, mpp_of, read_server, size_of

URI = "file:/data/a.svs"
OPENSLIDE = "qupath.lib.images.servers.openslide.OpenslideServerBuilder"
BIO_FORMATS = "qupath.lib.images.servers.bioformats.BioFormatsServerBuilder"
RGB = [{"name": "Red"}, {"name": "Green"}, {"name": "Blue"}]


def plain(**fields: Any) -> dict[str, Any]:
    return {"builderType": "uri", "providerClassName": OPENSLIDE, "uri": URI, **fields}


@pytest.mark.parametrize(
    "builder",
    [
        plain(),
        plain(args=[]),
        plain(providerClassName=BIO_FORMATS, args=["--series", "0"]),
        plain(providerClassName=BIO_FORMATS, args=["--series=0"]),
        plain(providerClassName=None, args=["--classname", "x"]),
        {"builderType": "rotated", "rotation": "ROTATE_NONE", "builder": plain()},
        {"builderType": "flipped", "flip": "NONE", "builder": plain()},
        {"builderType": "pyramidize", "builder": plain()},
    ],
)
def test_an_image_that_is_shown_as_it_is_in_its_file_is_taken(builder: dict[str, Any]) -> None:
    spec = read_server(builder)
    assert (spec.uri, spec.unsupported) == (URI, None)


@pytest.mark.parametrize(
    ("builder", "said"),
    [
        (
            {"builderType": "rotated", "rotation": "ROTATE_90", "builder": plain()},
            "rotated by QuPath (ROTATE_90); undo that",
        ),
        ({"builderType": "flipped", "flip": "HORIZONTAL", "builder": plain()}, "(HORIZONTAL)"),
        ({"builderType": "cropped", "region": {"x": 5}, "builder": plain()}, "cropped by QuPath"),
        ({"builderType": "affine", "transform": {}, "builder": plain()}, "transformed by QuPath"),
        ({"builderType": "channels", "builder": plain(), "channels": [plain()]}, "channels"),
        ({"builderType": "sparse", "regions": [{"resolutions": [plain()]}]}, "put together"),
        ({"builderType": "color", "builder": plain(), "transforms": []}, "transformed colours"),
        ({"builderType": "swapRedBlue", "order": "BGR", "builder": plain()}, "(BGR)"),
        ({"builderType": "z_projected", "projection": "MAX", "builder": plain()}, "(MAX)"),
        ({"builderType": "of 2031", "builder": plain()}, "does not know (of 2031)"),
        (
            {
                "builderType": "pyramidize",
                "builder": {"builderType": "cropped", "builder": plain()},
            },
            "cropped by QuPath",
        ),
        (plain(args=["--icc-profile"]), "opened with --icc-profile"),
        (plain(args=["--no-crop"]), "opened with --no-crop"),
        (plain(args=["--series", "2"]), "series 2 of a file of several images"),
        (plain(args=["--series=3"]), "series 3 of a file of several images"),
        (plain(args=["--series", "0", "--dims", "XYTZC"]), "--dims XYTZC"),
        (plain(args=["--rotate", "ROTATE_180"]), "rotated by QuPath (ROTATE_180)"),
        (plain(uri=URI + "#2"), "series 2 of a file of several images"),
        (plain(providerClassName="org.example.OwnServerBuilder"), "opened by OwnServerBuilder"),
        (
            plain(providerClassName="qupath.lib.images.servers.JsonImageServerBuilder"),
            "opened by JsonImageServerBuilder",
        ),
    ],
)
def test_what_shows_the_image_otherwise_is_refused_by_name(
    builder: dict[str, Any], said: str
) -> None:
    spec = read_server(builder)
    assert spec.unsupported is not None
    assert said in spec.unsupported
    assert spec.uri is not None
    assert spec.uri.startswith(URI)


@pytest.mark.parametrize(
    ("builder", "said"),
    [
        (None, "without an image"),
        (plain(uri=None), "without an image file"),
        (plain(uri="https://example.org/iiif/1"), "not a file but https://example.org/iiif/1"),
    ],
)
def test_what_is_no_file_is_refused_by_name(builder: Any, said: str) -> None:
    assert said in (read_server(builder).unsupported or "")


def calibrated(width: object, height: object, unit: str) -> dict[str, Any]:
    sides = {"pixelWidth": width, "pixelHeight": height}
    return {"pixelCalibration": {k: {"value": v, "unit": unit} for k, v in sides.items()}}


@pytest.mark.parametrize("unit", ["µm", "\N{GREEK SMALL LETTER MU}m", "um"])
def test_a_pixel_size_is_read_along_each_axis(unit: str) -> None:
    assert mpp_of(calibrated(0.5, 0.25, unit)) == Mpp(0.5, 0.25)


@pytest.mark.parametrize("metadata", [{}, calibrated(1.0, 1.0, "px"), {"pixelCalibration": None}])
def test_pixels_of_one_pixel_have_no_size(metadata: dict[str, Any]) -> None:
    assert mpp_of(metadata) is None


def test_an_absurd_pixel_size_is_passed_on_to_be_refused_by_name() -> None:
    assert mpp_of(calibrated(0.0, 0.0, "µm")) == Mpp(0.0, 0.0)
    mpp = mpp_of(calibrated("NaN", None, "µm"))
    assert mpp is not None
    assert all(map(math.isnan, mpp))


@pytest.mark.parametrize(
    ("metadata", "image_type", "said"),
    [
        ({"isRGB": True, "channels": RGB, "pixelType": "UINT8"}, "BRIGHTFIELD_H_E", None),
        ({"isRGB": False, "channels": RGB, "pixelType": "UINT8"}, None, None),
        ({}, None, None),
        ({"isRGB": True, "channels": RGB}, "FLUORESCENCE", "a fluorescence image"),
        ({"channels": [{}] * 4}, None, "4 channel"),
        ({"channels": [{}]}, None, "1 channel"),
        ({"channels": RGB, "pixelType": "UINT16"}, None, "UINT16"),
        ({"isRGB": True, "sizeZ": 7}, None, "7 z-slices"),
        ({"isRGB": True, "sizeT": 3}, None, "3 time points"),
    ],
)
def test_what_is_no_plane_of_8_bit_rgb_is_refused_by_name(
    metadata: dict[str, Any], image_type: str | None, said: str | None
) -> None:
    against = against_pixels(metadata, image_type)
    assert against is None if said is None else said in (against or "")


@pytest.mark.parametrize(
    ("metadata", "size"),
    [({"width": 5, "height": 7}, (5, 7)), ({"width": "NaN", "height": 7}, None), ({}, None)],
)
def test_the_size_is_known_or_not(metadata: dict[str, Any], size: object) -> None:
    assert size_of(metadata) == size
