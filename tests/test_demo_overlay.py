"""The overlay picture shows every head, in its classes' colours, in the right place."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from PIL import Image
from shapely.geometry import MultiPolygon, Polygon, box

from qupath_bridge.demo import overlay
from qupath_bridge.demo.overlay import draw_overlay
from qupath_bridge.detections import Detection
from qupath_bridge.geometry import Region
from qupath_bridge.overlay import tint, veil

SCALE = 10.0
RED, GREEN = (200, 0, 0), (0, 160, 0)


def detection(color: tuple[int, int, int], outline: Polygon) -> Detection:
    return Detection("id", "tissue", "r", f"Class {color}", color, outline, outline.area / 4, 1.0)


@pytest.fixture
def thumbnail() -> np.ndarray:
    return np.full((200, 300, 3), (230, 180, 210), dtype=np.uint8)


def regions(outline: Polygon | MultiPolygon) -> list[Region]:
    return [Region("r", "r", "annotation", outline)]


def test_there_is_a_panel_for_the_slide_and_one_for_each_head(thumbnail: np.ndarray) -> None:
    where = regions(box(500, 500, 2500, 1500))
    widths = []
    for heads in ([], ["tissue"], ["tissue", "glands"]):
        picture = draw_overlay(thumbnail, {head: [] for head in heads}, where, SCALE)
        assert isinstance(picture, Image.Image) and picture.mode == "RGB"
        widths.append(picture.width)
    assert widths[2] - widths[1] == widths[1] - widths[0] > 300


def test_drawing_changes_neither_thumbnail_nor_anything_else(thumbnail: np.ndarray) -> None:
    before = thumbnail.copy()
    found = {"tissue": [detection(RED, box(600, 600, 900, 900))]}
    where = regions(box(500, 500, 2500, 1500))
    first = draw_overlay(thumbnail, found, where, SCALE, mpp=0.5)
    second = draw_overlay(thumbnail, found, where, SCALE, mpp=0.5)
    assert np.array_equal(thumbnail, before)
    assert np.array_equal(np.asarray(first), np.asarray(second))


def test_a_detection_is_tinted_where_it_lies_and_nowhere_else(thumbnail: np.ndarray) -> None:
    tinted = tint(thumbnail, [detection(RED, box(1000, 400, 2000, 1200))], SCALE)
    changed = (tinted != thumbnail).any(axis=2)
    rows, cols = np.nonzero(changed)
    assert (rows.min(), rows.max() + 1, cols.min(), cols.max() + 1) == pytest.approx(
        (40, 120, 100, 200), abs=1
    )
    assert changed[42:118, 102:198].all()
    red, green, blue = tinted[80, 150].astype(int)
    assert red > green + 60 and abs(green - blue) < 10


def test_a_hole_stays_empty_and_what_lies_in_it_keeps_its_colour(thumbnail: np.ndarray) -> None:
    ring = shapely.difference(box(200, 200, 1800, 1800), box(600, 600, 1400, 1400))
    inner = box(800, 800, 1200, 1200)
    for found in (
        [detection(RED, ring), detection(GREEN, inner)],
        [detection(GREEN, inner), detection(RED, ring)],
    ):
        tinted = tint(thumbnail, found, SCALE).astype(int)
        assert (tinted[70, 70] == thumbnail[70, 70]).all()
        assert tinted[40, 40, 0] > tinted[40, 40, 1] + 60
        assert tinted[100, 100, 1] > tinted[100, 100, 0] + 40


def test_what_lies_outside_the_regions_fades(thumbnail: np.ndarray) -> None:
    parts = MultiPolygon([box(0, 0, 1000, 2000), box(2000, 0, 3000, 2000)])
    veiled = veil(thumbnail, regions(parts), SCALE)
    assert (veiled[:, 5:95] == thumbnail[:, 5:95]).all()
    assert (veiled[:, 105:195].mean() > thumbnail.mean() + 20).all()


def test_the_legend_names_the_largest_class_first_with_its_share() -> None:
    found = [
        detection(RED, box(0, 0, 10, 10)),
        detection(GREEN, box(10, 0, 40, 10)),
        detection(RED, box(0, 10, 10, 20)),
    ]
    legend = overlay._legend(found, 1000.0)
    assert [(entry.color, entry.share) for entry in legend] == [
        (GREEN, pytest.approx(0.3)),
        (RED, pytest.approx(0.2)),
    ]


def test_no_regions_no_detections_and_a_tiny_image_are_drawn_too() -> None:
    tiny = np.full((9, 13, 3), 240, dtype=np.uint8)
    picture = draw_overlay(tiny, {"tissue": []}, [], 3.7, mpp=0.25)
    assert picture.width >= 26
