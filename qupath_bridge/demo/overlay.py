"""A picture of a result: the slide, and beside it every head's classes laid over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from PIL import Image, ImageDraw, ImageFont

from qupath_bridge.detections import Detection
from qupath_bridge.geometry import Region
from qupath_bridge.overlay import PAPER, Color, tint, veil, with_regions

INK, SOFT = (32, 36, 44), (110, 116, 126)
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
    plain = with_regions(thumbnail, regions, scale)
    if mpp is not None:
        _draw_bar(plain, scale * mpp)
    panels = [_panel("Slide", plain, [])]
    area = shapely.union_all([region.outline_l0 for region in regions]).area
    for head, found in detections.items():
        tinted = tint(veil(thumbnail, regions, scale), found, scale)
        picture = with_regions(tinted, regions, scale)
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
