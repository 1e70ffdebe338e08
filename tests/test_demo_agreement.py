"""Dice between drawn truth and detections."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from rasterio.features import shapes
from shapely.geometry import MultiPolygon, Polygon, box, shape

from qupath_bridge.demo.agreement import dice_per_class, mean_dice
from qupath_bridge.demo.drawing import TISSUE_CLASSES, draw_slide
from qupath_bridge.detections import Detection
from qupath_bridge.errors import SettingsError
from qupath_bridge.geometry import Region

CLASSES = ("Background", "Tumor", "Stroma")


def detection(name: str, outline: Polygon) -> Detection:
    return Detection("id", "tissue", "r", name, (1, 2, 3), outline, outline.area / 4, 1.0)


def region(outline: Polygon | MultiPolygon) -> Region:
    return Region("r", "r", "annotation", outline)


def test_the_truth_traced_agrees_with_itself_exactly() -> None:
    truth = draw_slide(0, 320, 256).tissue
    found = [
        detection(TISSUE_CLASSES[int(code)], shape(outline))
        for outline, code in shapes(truth, mask=truth > 0)
    ]
    regions = [region(box(10.4, 20.2, 150.7, 200)), region(box(160, 30, 400, 300))]
    dice = dice_per_class(truth, found, TISSUE_CLASSES, regions)
    assert set(dice.values()) == {1.0}
    assert mean_dice(dice) == 1.0


def test_half_found_is_two_thirds() -> None:
    truth = np.zeros((100, 100), dtype=np.uint8)
    truth[20:60, 20:60] = 1
    found = [detection("Tumor", box(20, 20, 40, 60))]
    dice = dice_per_class(truth, found, CLASSES, [region(box(0, 0, 100, 100))])
    assert dice["Tumor"] == pytest.approx(2 / 3)
    assert dice["Background"] == pytest.approx(2 * 8400 / (8400 + 9200))
    assert "Stroma" not in dice
    assert mean_dice(dice) == pytest.approx(2 / 3)


def test_what_lies_outside_the_regions_or_in_their_holes_does_not_count() -> None:
    truth = np.full((100, 100), 1, dtype=np.uint8)
    truth[40:60, 40:60] = 2
    hole = Polygon(box(10, 10, 90, 90).exterior.coords, [box(40, 40, 60, 60).exterior.coords])
    dice = dice_per_class(truth, [detection("Tumor", box(0, 0, 90, 90))], CLASSES, [region(hole)])
    assert dice == {"Tumor": 1.0}


def test_overlapping_regions_count_once_and_parts_all_count() -> None:
    truth = np.zeros((60, 60), dtype=np.uint8)
    truth[:, :30] = 1
    found = [detection("Tumor", box(0, 0, 20, 60))]
    whole = region(box(0, 0, 60, 60))
    halves = MultiPolygon([box(0, 0, 60, 20), box(0, 30, 60, 60)])
    once = dice_per_class(truth, found, CLASSES, [whole])
    assert dice_per_class(truth, found, CLASSES, [whole, region(halves)]) == once


def test_a_hole_in_a_detection_is_not_covered_by_it() -> None:
    truth = np.full((50, 50), 1, dtype=np.uint8)
    truth[10:20, 10:20] = 0
    ring = shapely.difference(box(0, 0, 50, 50), box(10, 10, 20, 20))
    dice = dice_per_class(truth, [detection("Tumor", ring)], CLASSES, [region(box(0, 0, 50, 50))])
    assert dice == {"Background": 1.0, "Tumor": 1.0}


def test_no_region_and_no_detection_give_no_figures() -> None:
    truth = np.zeros((50, 50), dtype=np.uint8)
    assert dice_per_class(truth, [], CLASSES, []) == {}
    assert dice_per_class(truth, [], CLASSES, [region(box(60, 60, 70, 70))]) == {}
    assert math.isnan(mean_dice({"Background": 1.0}))


def test_a_class_the_truth_does_not_know_is_named() -> None:
    with pytest.raises(SettingsError, match="no class Gland"):
        dice_per_class(
            np.zeros((50, 50), dtype=np.uint8),
            [detection("Gland", box(0, 0, 9, 9))],
            CLASSES,
            [region(box(0, 0, 50, 50))],
        )
