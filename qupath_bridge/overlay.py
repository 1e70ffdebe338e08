"""Objects and regions drawn over the tissue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import shapely
from PIL import Image, ImageDraw
from shapely.affinity import translate
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from qupath_bridge.detections import Detection
from qupath_bridge.geometry import BoxL0, Region, Scale
from qupath_bridge.overview import read_past_damage
from qupath_bridge.slide import Slide

Color = tuple[int, int, int]

FINE = 2  # drawn this many times finer and averaged, so that edges are smooth
FILL, EDGE = 0.55, 0.95  # how opaque classes are inside and along their borders
LIFT = 0.12  # how much the picture under a class is brightened
VEIL = 0.62  # how much what lies outside the regions fades to white
PAPER, REGION_INK = (255, 255, 255), (0, 0, 180)
RIM = 0.03  # how much of the slide is shown around the regions, of their longer side


def draw_regions(
    slide: Slide,
    regions: Sequence[Region],
    detections: Iterable[Detection],
    most_px: tuple[int, int],
) -> Image.Image:
    """Return the part of a slide that holds the regions, with what was found in them.

    The picture is at most `most_px` (width, height), and no finer than the slide; black where the
    slide is damaged.
    """
    shown = _around(slide, regions)
    width_l0, height_l0 = shown.x1 - shown.x0, shown.y1 - shown.y0
    scale = max(width_l0 / most_px[0], height_l0 / most_px[1], 1.0)
    size = max(1, int(width_l0 / scale)), max(1, int(height_l0 / scale))
    step = Scale(width_l0 / size[0], height_l0 / size[1])
    pixels, _ = read_past_damage(slide, (shown.x0, shown.y0), step, size)
    dx, dy = -shown.x0, -shown.y0
    here = [replace(r, outline_l0=translate(r.outline_l0, dx, dy)) for r in regions]
    # What is smaller than a fine pixel cannot be seen, and there may be a million of it.
    seen = [d for d in detections if d.outline_l0.area >= (scale / FINE) ** 2]
    found = [replace(d, outline_l0=translate(d.outline_l0, dx, dy)) for d in seen]
    return with_regions(tint(veil(pixels, here, scale), found, scale), here, scale)


def _around(slide: Slide, regions: Sequence[Region]) -> BoxL0:
    x0, y0, x1, y1 = shapely.total_bounds([region.outline_l0 for region in regions])
    rim = RIM * max(x1 - x0, y1 - y0)
    return BoxL0(
        max(0.0, float(x0 - rim)),
        max(0.0, float(y0 - rim)),
        min(float(slide.width), float(x1 + rim)),
        min(float(slide.height), float(y1 + rim)),
    )


def veil(thumbnail: np.ndarray, regions: Sequence[Region], scale: float) -> np.ndarray:
    """Return the thumbnail, faded outside the regions."""
    all_regions = shapely.union_all([region.outline_l0 for region in regions])
    weight = _mask(all_regions, thumbnail.shape, scale)[..., None]
    faded = thumbnail * (1 - VEIL) + 255 * VEIL
    return np.rint(thumbnail * weight + faded * (1 - weight)).astype(np.uint8)


def tint(picture: np.ndarray, found: Sequence[Detection], scale: float) -> np.ndarray:
    """Return the picture with the classes' colours over it, their borders stronger.

    Under a class the picture is grey, or the stain's pink would spoil the class's colour.
    """
    colors = [PAPER, *dict.fromkeys(detection.color for detection in found)]
    codes = _codes(found, colors, picture.shape, scale)
    alpha = np.where(codes > 0, np.float32(FILL), np.float32(0))
    alpha[_borders(codes)] = EDGE
    color = np.array(colors, dtype=np.float32)[codes]
    weight = _average(alpha[..., None])
    mean = _average(color * alpha[..., None]) / np.maximum(weight, 1e-6)
    grey = picture @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32)
    within = _average((codes > 0).astype(np.float32)[..., None])
    base = picture * (1 - within) + (grey * (1 - LIFT) + 255 * LIFT) * within
    return np.rint(base * (1 - weight) + mean * weight).astype(np.uint8)


def _codes(
    found: Sequence[Detection], colors: Sequence[Color], shape: tuple[int, ...], scale: float
) -> np.ndarray:
    """Return which colour each fine pixel has, uint8 [h * FINE, w * FINE], 0 for none.

    The largest is drawn first and its holes emptied: what lies in a hole is smaller, and follows.
    """
    canvas = Image.new("L", (shape[1] * FINE, shape[0] * FINE), 0)
    draw = ImageDraw.Draw(canvas)
    for detection in sorted(found, key=lambda d: -Polygon(d.outline_l0.exterior).area):
        _fill(draw, detection.outline_l0, colors.index(detection.color, 1), scale / FINE)
    return np.array(canvas)


def _mask(outline: BaseGeometry, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Return how much of each pixel lies inside an outline, float32 [h, w], 0..1."""
    canvas = Image.new("L", (shape[1] * FINE, shape[0] * FINE), 0)
    draw = ImageDraw.Draw(canvas)
    for part in _polygons(outline):
        _fill(draw, part, 1, scale / FINE)
    return _average(np.array(canvas, dtype=np.float32)[..., None])[..., 0]


def _fill(draw: ImageDraw.ImageDraw, polygon: Polygon, value: int, scale: float) -> None:
    draw.polygon(_points(polygon.exterior.coords, scale), fill=value)
    for hole in polygon.interiors:
        draw.polygon(_points(hole.coords, scale), fill=0)


def _points(coords: Sequence[tuple[float, ...]], scale: float) -> list[tuple[float, float]]:
    return [(point[0] / scale - 0.5, point[1] / scale - 0.5) for point in coords]


def _polygons(outline: BaseGeometry) -> list[Polygon]:
    return [part for part in shapely.get_parts(outline) if isinstance(part, Polygon)]


def _borders(codes: np.ndarray) -> np.ndarray:
    """Return the pixels of a class that touch another class or none, bool [h, w]."""
    border = np.zeros(codes.shape, dtype=bool)
    across, down = codes[:, 1:] != codes[:, :-1], codes[1:] != codes[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border & (codes > 0)


def _average(fine: np.ndarray) -> np.ndarray:
    """Return each FINE x FINE block's mean, float32 [h, w, C]."""
    height, width, channels = fine.shape
    blocks = fine.reshape(height // FINE, FINE, width // FINE, FINE, channels)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def with_regions(picture: np.ndarray, regions: Sequence[Region], scale: float) -> Image.Image:
    """Return the picture with the regions' outlines: blue on a white casing."""
    height, width = picture.shape[:2]
    fine = Image.fromarray(picture).resize((width * FINE, height * FINE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(fine)
    line = max(2, round(width / 260)) * FINE // 2
    rings = [
        _points(ring.coords, scale / FINE)
        for region in regions
        for polygon in _polygons(region.outline_l0)
        for ring in (polygon.exterior, *polygon.interiors)
    ]
    for color, thick in ((PAPER, 2 * line + 1), (REGION_INK, line + 1)):
        for ring in rings:
            for start, end in pairwise(ring):
                draw.line([start, end], fill=color, width=thick)
                _dot(draw, end, thick / 2, color)
    return fine.resize((width, height), Image.Resampling.BOX)


def _dot(draw: ImageDraw.ImageDraw, at: tuple[float, float], radius: float, color: Color) -> None:
    """Round a corner that two segments of a line would leave open."""
    x, y = at
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)
