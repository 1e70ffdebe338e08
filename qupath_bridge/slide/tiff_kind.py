"""What a TIFF says about its pixels: whether they are RGB, and how large they are."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from qupath_bridge.geometry import Mpp
from qupath_bridge.slide.base import UnsupportedError

# What tifffile has to say about a broken file comes as an exception too; its log would go to the
# terminal, in the middle of the progress.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

UM_PER_UNIT = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0,
    "microns": 1.0, "nm": 1e-3, "Å": 1e-4, "pm": 1e-6, "in": 25400.0, "inch": 25400.0,
}  # fmt: skip
UM_PER_RESOLUTION_UNIT = {2: 25400.0, 3: 10000.0}

COARSEST_DEPENDABLE_UM = 20.0
"""TIFF resolution tags beyond this are a printer's: 72 to 1200 dpi are 353 to 21 um."""

AXIS_NAMES = {"Z": "a z-stack of {} planes", "T": "a time series of {} frames"}
RGB_PHOTOMETRICS = {tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR}
UNKNOWN_PHOTOMETRIC_OF_JPEG2000 = {33003, 33004, 33005, 34712}
OME_RED_GREEN_BLUE = [("Red", "-16776961"), ("Green", "16711935"), ("Blue", "65535")]


def is_plain_rgb(path: Path) -> bool:
    """Return whether a TIFF's first image is 8-bit RGB and nothing that OpenSlide would overlook.

    An OME-TIFF is not plain: pixel size, stacks and levels are said in ways OpenSlide ignores.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            page = tif.pages.first
            one_picture = not tif.is_ome and set(tif.series[0].axes) <= set("YXS")
            return one_picture and page.dtype == "uint8" and _is_rgb_page(page)
    except (tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError, struct.error):
        return True  # then OpenSlide is the better judge


def refuse_unfit(series: tifffile.TiffPageSeries, tif: tifffile.TiffFile) -> None:
    """Do nothing if a series is one 8-bit RGB picture.

    Raises:
        UnsupportedError: what it is instead.
    """
    sizes = {axis: n for axis, n in zip(series.axes, series.shape, strict=True) if n > 1}
    if series.dtype != "uint8":
        raise UnsupportedError(f"has {series.dtype} pixels")
    for axis in sizes.keys() - set("YXSC"):
        raise UnsupportedError(
            "is " + AXIS_NAMES.get(axis, "a stack of {} pages").format(sizes[axis])
        )
    channels = sizes.get("C", 1)
    if channels > 1 and not (channels == 3 and "S" not in sizes and _says_red_green_blue(tif)):
        raise UnsupportedError(f"is a fluorescence (multi-channel) image of {channels} channels")
    if channels == 1 and not _is_rgb_page(series.keyframe):
        raise UnsupportedError(_name_of_page_kind(series.keyframe))


def mpp_of(series: tifffile.TiffPageSeries, tif: tifffile.TiffFile) -> Mpp | None:
    """Return the pixel size from OME-XML, ImageJ's remarks or the TIFF tags, unchecked."""
    if tif.is_ome:
        return ome_mpp(tif.ome_metadata or "", tif.series.index(series))
    if tif.is_imagej:
        return _tagged_mpp(series.keyframe, UM_PER_UNIT.get(_imagej_unit(tif)))
    unit = series.keyframe.tags.valueof(296, 2)
    mpp = _tagged_mpp(series.keyframe, UM_PER_RESOLUTION_UNIT.get(int(unit)))
    return dependable_resolution(mpp) if mpp else None


def ome_mpp(xml: str, image_index: int) -> Mpp | None:
    """Return the pixel size of one image of OME-XML; None where it or its unit is missing."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    pixels = [element for element in root.iter() if element.tag.rpartition("}")[2] == "Pixels"]
    if not pixels:
        return None
    attributes = pixels[image_index if image_index < len(pixels) else 0].attrib
    sizes = []
    for axis in "XY":
        unit = UM_PER_UNIT.get(attributes.get(f"PhysicalSize{axis}Unit", "µm"))
        try:
            size = float(attributes[f"PhysicalSize{axis}"])
        except (KeyError, ValueError):
            return None
        if unit is None:  # "pixel" or "reference frame": not a length
            return None
        sizes.append(size * unit)
    return Mpp(*sizes)


def dependable_resolution(mpp: Mpp) -> Mpp | None:
    """Return a pixel size from TIFF resolution tags, or None if no microscope made it."""
    return mpp if max(mpp) <= COARSEST_DEPENDABLE_UM else None


def _tagged_mpp(page: tifffile.TiffPage, um_per_unit: float | None) -> Mpp | None:
    x, y = page.tags.valueof(282), page.tags.valueof(283)
    if um_per_unit is None or not x or not y or not all((*x, *y)):
        return None
    return Mpp(um_per_unit * x[1] / x[0], um_per_unit * y[1] / y[0])


def _imagej_unit(tif: tifffile.TiffFile) -> str:
    unit = str((tif.imagej_metadata or {}).get("unit", ""))
    return unit.replace("\\u00B5", "µ").replace("\\u00b5", "µ")


def _is_rgb_page(page: tifffile.TiffPage) -> bool:
    known = page.photometric in RGB_PHOTOMETRICS
    return page.samplesperpixel in (3, 4) and (
        known or page.compression in UNKNOWN_PHOTOMETRIC_OF_JPEG2000
    )


def _name_of_page_kind(page: tifffile.TiffPage) -> str:
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        return "has a colour palette instead of RGB pixels"
    if page.samplesperpixel == 1:
        return "is greyscale (one channel)"
    return f"has {page.samplesperpixel} samples per pixel, not RGB"


def _says_red_green_blue(tif: tifffile.TiffFile) -> bool:
    """Return whether three separate channels are RGB by QuPath's rule: by name and by colour."""
    try:
        root = ElementTree.fromstring(tif.ome_metadata or "")
    except ElementTree.ParseError:
        return False
    channels = [e.attrib for e in root.iter() if e.tag.rpartition("}")[2] == "Channel"]
    return [(c.get("Name"), c.get("Color")) for c in channels] == OME_RED_GREEN_BLUE
