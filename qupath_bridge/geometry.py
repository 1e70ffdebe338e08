"""Frames and the conversions between them.

Two frames only: level-0 pixels of QuPath's image (`_l0`) and model pixels (`_m`), `model_mpp` um
wide and high to within 2 %. Both have their origin at the image's top left corner, pixel (0, 0)
covering [0, 1) x [0, 1). Points are `(x, y)`, arrays `[H, W]`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import shapely
from shapely import affinity
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

WHOLE = 0.02
"""How far from a whole number of level-0 pixels a model pixel may be to be taken as that many."""


class Mpp(NamedTuple):
    """Micrometres per level-0 pixel along each axis."""

    x: float
    y: float

    @property
    def pixel_area_um2(self) -> float:
        return self.x * self.y


class BoxL0(NamedTuple):
    """An axis-aligned box in level-0 pixels; edges need not fall on whole pixels."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Scale:
    """Level-0 pixels per model pixel along each axis."""

    x: float
    y: float

    @classmethod
    def between(cls, mpp: Mpp, model_mpp: float) -> Scale:
        """Return the scale that takes an image of `mpp` to model pixels of `model_mpp` um."""
        return cls(model_mpp / mpp.x, model_mpp / mpp.y)

    @classmethod
    def near(cls, mpp: Mpp, model_mpp: float) -> Scale:
        """Return nearly that scale: whole numbers where it is within `WHOLE` of them.

        So pixels of 0.499 or 0.2525 um are taken as they are, or four as one, where 0.5 um is
        asked for: no network sees the difference, and nothing need be mixed from others.
        """
        exact = cls.between(mpp, model_mpp)
        return cls(_whole(exact.x), _whole(exact.y))

    def pixel_um(self, mpp: Mpp) -> float:
        """Return how wide model pixels of an image of `mpp` are, the mean of both axes."""
        return math.sqrt(self.x * mpp.x * self.y * mpp.y)

    def box_l0(self, x_m: float, y_m: float, width_m: float, height_m: float) -> BoxL0:
        """Return the level-0 box that a box in model pixels covers."""
        return BoxL0(
            x_m * self.x, y_m * self.y, (x_m + width_m) * self.x, (y_m + height_m) * self.y
        )

    def to_l0(self, geometry_m: BaseGeometry) -> BaseGeometry:
        """Return a geometry given in model pixels in level-0 pixels."""
        return affinity.affine_transform(geometry_m, [self.x, 0, 0, self.y, 0, 0])

    def all_to_l0(self, geometries_m: np.ndarray) -> np.ndarray:
        """Return what `to_l0` does of each of many geometries."""
        # Adding 0 leaves no -0, as an affine transform leaves none.
        return shapely.transform(geometries_m, lambda xy: xy * (self.x, self.y) + 0.0)

    def to_m(self, geometry_l0: BaseGeometry) -> BaseGeometry:
        """Return a geometry given in level-0 pixels in model pixels."""
        return affinity.affine_transform(geometry_l0, [1 / self.x, 0, 0, 1 / self.y, 0, 0])


def _whole(scale: float) -> float:
    whole = round(scale)
    return float(whole) if whole and abs(scale / whole - 1) <= WHOLE else scale


@dataclass(frozen=True)
class Region:
    """A part of an image to segment.

    `outline_l0` is valid, not empty and inside the image. `id` is the annotation's UUID, or
    "tissue" or "slide" for regions that no annotation stands for.
    """

    id: str
    name: str
    kind: Literal["annotation", "tissue", "slide"]
    outline_l0: Polygon | MultiPolygon
    class_name: str | None = None


def is_box(geometry: BaseGeometry) -> bool:
    """Return whether a geometry is a rectangle whose sides run along the axes."""
    return not geometry.is_empty and geometry.equals(shapely.box(*geometry.bounds))
