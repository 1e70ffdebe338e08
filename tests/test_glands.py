"""Glands with borders: whole, and two where two touch."""

import numpy as np
import pytest
from shapely.geometry import box

from model import HeadClass
from model.instances import border_codes
from qupath_bridge.classmap import NODATA, ClassMap
from qupath_bridge.glands import has_borders, with_whole_glands
from qupath_bridge.polygons import PolygonSettings, trace

CLASSES = (
    HeadClass("Background", (255, 255, 255), detections=False),
    HeadClass("Gland", (0, 120, 200)),
    HeadClass("Gland border", (0, 60, 100), detections=False),
)


def class_map_of(codes: np.ndarray) -> ClassMap:
    ones = np.ones(codes.shape, np.float32)
    return ClassMap(codes, ones, np.zeros(codes.shape, np.float16), 0, 0, 1)


@pytest.fixture
def three_glands() -> np.ndarray:
    """Return ids: two glands side by side without a gap, and one apart."""
    ids = np.zeros((60, 90), np.int32)
    ids[10:30, 10:30], ids[10:30, 30:55], ids[40:52, 60:80] = 1, 2, 3
    return ids


def traced(ids: np.ndarray, smallest_um2: float = 0.0):
    codes = border_codes(ids, 3)
    whole, classes = with_whole_glands(class_map_of(codes), CLASSES, 1.0, smallest_um2)
    settings = PolygonSettings(0, 0, 0)
    found = trace(whole, box(0, 0, *ids.shape[::-1]), 1.0, settings)
    return [o for o in found if CLASSES[classes[o.code]].name == "Gland"]


def test_each_gland_is_one_object_with_its_border(three_glands):
    areas = sorted(o.outline_m.area for o in traced(three_glands))
    # Outlines cut a cell's corner where three classes meet.
    assert areas == pytest.approx(sorted(np.bincount(three_glands.ravel())[1:]), abs=1)


def test_small_glands_become_background(three_glands):
    areas = sorted(o.outline_m.area for o in traced(three_glands, 300.0))
    assert areas == pytest.approx([400, 500], abs=1)


def test_what_was_not_computed_stays_so_and_other_classes_are_left_alone():
    codes = np.full((20, 20), NODATA, np.uint8)
    codes[2:18, 2:18] = 0
    codes[5:10, 5:10] = 1
    whole, _ = with_whole_glands(class_map_of(codes), CLASSES, 1.0, 0.0)
    np.testing.assert_array_equal(whole.codes, codes)


def test_only_heads_with_both_classes_have_borders():
    assert has_borders(CLASSES) and not has_borders(CLASSES[:2])
