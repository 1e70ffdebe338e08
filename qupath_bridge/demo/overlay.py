"""A picture of a result: the slide, and beside it every head's classes laid over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import shapely
from PIL import Image, ImageDraw, ImageFont
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from qupath_bridge.detections import Detection
from qupath_bridge.geometry import Region

Color = tuple[int, int, int]

FINE = 2  # drawn this many times finer and averaged, so that edges are smooth
FILL, EDGE = 0.55, 0.95  # how opaque classes are inside and along their borders
LIFT = 0.12  # how much the picture under a class is brightened
VEIL = 0.62  # how much what lies outside the regions fades to white
INK, SOFT, PAPER = (32, 36, 44), (110, 116, 126), (255, 255, 255)
REGION_INK = (0, 0, 180)
BARS_UM = (50, 100, 200, 500, 1000, 2000, 5000, 10_000)


@dataclass(frozen=True)
class Legend:
    """One class in a panel's legend; `share` of the regions' area, 0..1."""

    name: str
    color: Color
    share: float


def draw_overlay(
    thumbnail: np.ndarray,
    detections: Mapping[str, Sequence[Detection]],
    regions: Sequence[Region],
    scale: float,
    mpp: float | None = None,
) -> Image.Image:
    """Return a picture with one panel for the slide and one for each head.

    `thumbnail` is uint8 [h, w, 3], `scale` the level-0 pixels in each of its pixels;
    `detections` maps a head's name to what it found. With `mpp`, the level-0 pixel size in um,
    the slide gets a scale bar.
    """
    plain = _with_regions(thumbnail, regions, scale)
    if mpp is not None:
        _draw_bar(plain, scale * mpp)
    panels = [_panel("Slide", plain, [])]
    area = shapely.union_all([region.outline_l0 for region in regions]).area
    for head, found in detections.items():
        tinted = _tint(_veil(thumbnail, regions, scale), found, scale)
        picture = _with_regions(tinted, regions, scale)
        panels.append(_panel(head.capitalize(), picture, _legend(found, area)))
    return _side_by_side(panels)


def _legend(found: Sequence[Detection], area_l0: float) -> list[Legend]:
    """Return the classes found, the largest first."""
    totals: dict[str, float] = {}
    for detection in found:
        totals[detection.class_name] = (
            totals.get(detection.class_name, 0.0) + detection.outline_l0.area
        )
    colors = {detection.class_name: detection.color for detection in found}
    return [
        Legend(name, colors[name], totals[name] / area_l0 if area_l0 else 0.0)
        for name in sorted(totals, key=lambda name: -totals[name])
    ]


def _veil(thumbnail: np.ndarray, regions: Sequence[Region], scale: float) -> np.ndarray:
    """Return the thumbnail, faded outside the regions."""
    inside = np.zeros(thumbnail.shape[:2], dtype=np.float32)
    for region in regions:
        inside = np.maximum(inside, _mask(region.outline_l0, thumbnail.shape, scale))
    weight = inside[..., None]
    faded = thumbnail * (1 - VEIL) + 255 * VEIL
    return np.rint(thumbnail * weight + faded * (1 - weight)).astype(np.uint8)


def _tint(picture: np.ndarray, found: Sequence[Detection], scale: float) -> np.ndarray:
    """Return the picture with the classes' colours over it, their borders stronger.

    Under a class the picture is grey, or the stain's pink would spoil the class's colour.
    """
    colors = [PAPER, *dict.fromkeys(detection.color for detection in found)]
    codes = _codes(found, colors, picture.shape, scale)
    alpha = np.where(codes > 0, np.float32(FILL), np.float32(0))
    alpha[_borders(codes)] = EDGE
    tint = np.array(colors, dtype=np.float32)[codes]
    weight = _average(alpha[..., None])
    color = _average(tint * alpha[..., None]) / np.maximum(weight, 1e-6)
    grey = picture @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32)
    within = _average((codes > 0).astype(np.float32)[..., None])
    base = picture * (1 - within) + (grey * (1 - LIFT) + 255 * LIFT) * within
    return np.rint(base * (1 - weight) + color * weight).astype(np.uint8)


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


def _with_regions(picture: np.ndarray, regions: Sequence[Region], scale: float) -> Image.Image:
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


def _draw_bar(picture: Image.Image, um_per_px: float) -> None:
    """Draw a scale bar of a round length into the lower left corner."""
    longest = picture.width * um_per_px / 4
    bar_um = max([b for b in BARS_UM if b <= longest], default=BARS_UM[0])
    draw, unit = ImageDraw.Draw(picture), picture.width / 60
    left, bottom = unit * 1.6, picture.height - unit * 1.6
    right, thick = left + bar_um / um_per_px, max(2, unit / 3)
    label = f"{bar_um} um" if bar_um < 1000 else f"{bar_um // 1000} mm"
    font = ImageFont.load_default(max(9, unit * 1.5))  # it has no Greek letters
    text_at = ((left + right) / 2, bottom - unit * 0.7)
    box = draw.textbbox(text_at, label, font=font, anchor="mb")
    pad = unit * 0.7
    plate = [min(left, box[0]) - pad, box[1] - pad, max(right, box[2]) + pad, bottom + thick + pad]
    draw.rounded_rectangle(plate, radius=pad, fill=PAPER)
    draw.rectangle([left, bottom, right, bottom + thick], fill=INK)
    draw.text(text_at, label, font=font, anchor="mb", fill=INK)


def _panel(title: str, picture: Image.Image, legend: Sequence[Legend]) -> Image.Image:
    """Return a picture under its title and over its legend."""
    unit = picture.width / 60
    head, row = round(unit * 4), unit * 2.7
    rows = -(-len(legend) // 2)
    panel = Image.new("RGB", (picture.width, head + picture.height + round(row * 3 + unit)), PAPER)
    draw = ImageDraw.Draw(panel)
    font = ImageFont.load_default(max(10, unit * 2.3))
    draw.text((0, head - unit * 0.9), title, font=font, anchor="lb", fill=INK)
    panel.paste(picture, (0, head))
    draw.rectangle([0, head, picture.width - 1, head + picture.height - 1], outline=(214, 217, 222))
    for index, entry in enumerate(legend):
        x = (index // max(rows, 1)) * picture.width / 2
        y = head + picture.height + unit * 1.2 + (index % max(rows, 1)) * row
        _draw_entry(draw, entry, (x, y), unit)
    return panel


def _draw_entry(
    draw: ImageDraw.ImageDraw, entry: Legend, at: tuple[float, float], unit: float
) -> None:
    x, y = at
    font = ImageFont.load_default(max(9, unit * 1.75))
    box = [x, y, x + unit * 1.8, y + unit * 1.8]
    draw.rounded_rectangle(box, radius=unit * 0.4, fill=entry.color, outline=INK)
    middle = y + unit * 0.9
    draw.text((x + unit * 2.7, middle), entry.name, font=font, anchor="lm", fill=INK)
    share = f"{entry.share:.1%}"
    draw.text((x + unit * 26.5, middle), share, font=font, anchor="rm", fill=SOFT)


def _side_by_side(panels: Sequence[Image.Image]) -> Image.Image:
    gap = round(panels[0].width / 30)
    width = sum(panel.width + gap for panel in panels) + gap
    height = max(panel.height for panel in panels) + 2 * gap
    sheet = Image.new("RGB", (width, height), PAPER)
    x = gap
    for panel in panels:
        sheet.paste(panel, (x, gap))
        x += panel.width + gap
    return sheet
