"""A slide with labelled areas, and crops of it, read when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio import features
from rasterio.transform import Affine
from shapely.geometry.base import BaseGeometry

from model.classes import Color
from model.labels import IGNORED, LabelledPixels
from qupath_bridge.crops import Crop
from qupath_bridge.geometry import Mpp, Scale
from qupath_bridge.slide import Slide, open_slide


@dataclass(frozen=True)
class SlideFile:
    """What is needed to open a slide again, whenever a crop of it is read."""

    path: Path
    mpp: Mpp | None
    size_l0: tuple[int, int] | None

    def open(self) -> Slide:
        return open_slide(self.path, mpp=self.mpp, size_l0=self.size_l0)


@dataclass(frozen=True)
class LabelledSlide:
    """A slide's labels: areas in model pixels with their classes and those' colours."""

    name: str
    file: SlideFile
    scale: Scale
    size_m: tuple[float, float]
    outlines_m: list[BaseGeometry]
    classes: list[str]
    colors: list[Color | None]


def read_crop(
    file: SlideFile, scale: Scale, crop: Crop, areas: Sequence[tuple[BaseGeometry, int]]
) -> LabelledPixels:
    """Return a crop's pixels and the codes of the areas in it, those that come later on top."""
    x, y, width, height, _ = crop
    with file.open() as slide:
        pixels = slide.read(scale.box_l0(x, y, width, height), width, height)
    codes = features.rasterize(
        areas,
        out_shape=(height, width),
        transform=Affine.translation(x, y),
        fill=IGNORED,
        dtype="uint8",
    )
    return LabelledPixels(pixels, np.asarray(codes))
