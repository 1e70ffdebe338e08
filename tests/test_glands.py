"""Glands with borders: whole, and two where two touch."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from shapely.geometry import box
from steps import steps_of

from model import HeadClass
from model.instances import GlandReading, border_codes, glands_of_codes
from qupath_bridge import glands
from qupath_bridge.classmap import NODATA, STEPS, ClassMap, stacked
from qupath_bridge.glands import GlandBands, GlandClasses, has_borders
from qupath_bridge.polygons import PolygonSettings, trace

CLASSES = (
    HeadClass("Background", (255, 255, 255), detections=False),
    HeadClass("Gland", (0, 120, 200)),
    HeadClass("Gland border", (0, 60, 100), detections=False),
)


def class_map_of(codes: np.ndarray) -> ClassMap:
    sure = np.full(codes.shape, STEPS, np.uint16)
    return ClassMap(codes, sure, np.zeros(codes.shape, np.uint16), 0, 0, 1)


def with_whole_glands(
    class_map: ClassMap, smallest_um2: float, heights: list[int] | None = None
) -> ClassMap:
    """Return a map with whole glands, made from bands of some heights, then the rest."""
    reader, finished = GlandBands(CLASSES, 1.0, smallest_um2), []
    height = len(class_map.codes)
    ends = sorted({0, *np.cumsum(heights or [], dtype=int).clip(max=height).tolist(), height})
    for begin, end in pairwise(ends):
        finished += reader.add(class_map.rows(begin, end))
    return stacked([*finished, *reader.last()])


@pytest.fixture
def three_glands() -> np.ndarray:
    """Return ids: two glands side by side without a gap, and one apart."""
    ids = np.zeros((60, 90), np.int32)
    ids[10:30, 10:30], ids[10:30, 30:55], ids[40:52, 60:80] = 1, 2, 3
    return ids


def traced(ids: np.ndarray, smallest_um2: float = 0.0):
    codes = border_codes(ids, 3)
    whole = with_whole_glands(class_map_of(codes), smallest_um2)
    found = trace(whole, box(0, 0, *ids.shape[::-1]), 1.0, PolygonSettings(0, 0, 0))
    class_of = GlandClasses.of(CLASSES).class_of
    return [o for o in found if CLASSES[class_of(o.code)].name == "Gland"]


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
    whole = with_whole_glands(class_map_of(codes), 0.0)
    np.testing.assert_array_equal(whole.codes, codes)


def test_only_heads_with_both_classes_have_borders():
    assert has_borders(CLASSES) and not has_borders(CLASSES[:2])


@st.composite
def maps_of_glands(draw: st.DrawFn) -> ClassMap:
    """Draw a map of gland, border and background, noise or smooth, some of it not computed."""
    shape = draw(st.integers(1, 60)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    noise = rng.standard_normal((3, *shape))
    noise[0] += draw(st.sampled_from([-0.4, 0.0, 0.4]))
    sigma = draw(st.sampled_from([0.0, 1.0, 2.0, 3.0]))
    smooth = ndimage.gaussian_filter(noise, (0, sigma, sigma))
    codes = (smooth / smooth.std()).argmax(axis=0).astype(np.uint8)
    codes[rng.random(shape) < draw(st.sampled_from([0.0, 0.02]))] = NODATA
    probability, entropy = steps_of(rng.random((2, *shape)))
    return ClassMap(codes, probability, entropy, 6, 8, 1)


def assert_same(one: ClassMap, other: ClassMap) -> None:
    assert one.frame == other.frame
    for field in ("codes", "probability", "entropy"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


quickly = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
heights = st.lists(st.integers(1, 30), max_size=20)
smallest = st.sampled_from([0.0, 5.0, 120.0])


@quickly
@given(maps_of_glands(), heights, smallest, st.sampled_from([1, 40, 200]))
def test_bands_of_any_height_give_the_glands_of_the_whole_map(
    monkeypatch, class_map, heights, smallest, step_cells
):
    whole = with_whole_glands(class_map, smallest)
    monkeypatch.setattr(glands, "STEP_CELLS", step_cells)
    assert_same(with_whole_glands(class_map, smallest, heights), whole)


@quickly
@given(maps_of_glands(), heights, heights, st.sampled_from([0, 300, 900]))
def test_where_sheets_are_cut_does_not_depend_on_the_bands(
    monkeypatch, class_map, some, others, held_cells
):
    monkeypatch.setattr(glands, "STEP_CELLS", 100)
    monkeypatch.setattr(glands, "HELD_CELLS", held_cells)
    one, other = (with_whole_glands(class_map, 5.0, h) for h in (some, others))
    assert_same(one, other)
    np.testing.assert_array_equal(one.codes == NODATA, class_map.codes == NODATA)


@quickly
@given(maps_of_glands(), smallest)
def test_one_sheet_has_the_glands_that_are_read_from_it(class_map, smallest):
    pieces, count = ndimage.label(np.isin(class_map.codes, (1, 2)), np.ones((3, 3)))
    if not count:
        return
    largest = 1 + np.bincount(pieces[pieces > 0] - 1).argmax()
    class_map.codes[(pieces != largest) & (pieces > 0)] = 0
    expected = glands_of_codes(class_map.codes, GlandReading(1.0, 1, 2, smallest))
    expected[class_map.codes == NODATA] = 0
    whole = with_whole_glands(class_map, smallest)
    is_gland = (whole.codes == 1) | ((whole.codes > 2) & (whole.codes != NODATA))
    np.testing.assert_array_equal(is_gland, expected > 0)
    for code in np.unique(whole.codes[is_gland]):
        parts, count = ndimage.label(whole.codes == code, np.ones((3, 3)))
        for part in range(1, count + 1):
            assert len(np.unique(expected[parts == part])) == 1


def test_what_is_held_is_no_more_than_unfinished_glands(monkeypatch):
    monkeypatch.setattr(glands, "STEP_CELLS", 40)
    codes = np.zeros((60, 40), np.uint8)
    codes[5:15, 5:15], codes[12:30, 20:30] = 1, 1
    reader = GlandBands(CLASSES, 1.0, 0.0)
    finished = [
        sum(len(band.codes) for band in reader.add(class_map_of(codes).rows(y, y + 1)))
        for y in range(60)
    ]
    assert sum(finished[:5]) == 5
    assert sum(finished[:12]) <= 5
    assert sum(finished[:50]) >= 30  # sheets are not looked for at each row


def test_a_sheet_without_end_is_cut_where_it_hangs_together_least(monkeypatch):
    monkeypatch.setattr(glands, "STEP_CELLS", 100)
    monkeypatch.setattr(glands, "HELD_CELLS", 1000)
    codes = np.ones((150, 10), np.uint8)
    codes[86:88, :8] = 0
    reader = GlandBands(CLASSES, 1.0, 0.0)
    finished = sum(len(band.codes) for band in reader.add(class_map_of(codes)))
    assert 86 <= finished <= 88


def test_a_gland_in_the_hole_of_another_is_told_from_it():
    codes = np.zeros((40, 40), np.uint8)
    codes[5:35, 5:35], codes[8:32, 8:32] = 1, 0
    codes[15:25, 15:25] = 1
    whole = with_whole_glands(class_map_of(codes), 0.0)
    assert whole.codes[6, 6] == whole.codes[10, 10] != whole.codes[20, 20] != 0
