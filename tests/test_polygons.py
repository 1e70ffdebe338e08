"""Tracing: the objects of a region fill it, share borders, and are valid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from shapely.geometry import LineString, Point, Polygon, box
from steps import in_whole_steps, steps_of

from qupath_bridge import packed, strips
from qupath_bridge.classmap import NODATA, ClassMap
from qupath_bridge.errors import SettingsError, TilingError
from qupath_bridge.polygons import PolygonSettings, TracedObject, Tracer, trace, trace_bands

MPP = 0.5
CELL_M = 2  # so a cell is 1 um wide
SIDE = 48  # cells
CORNER_M = (100, 60)
EVERYTHING = PolygonSettings(0, 0, 0)
CENTRE = Point(CORNER_M[0] + SIDE, CORNER_M[1] + SIDE)
REGIONS = {
    "whole cells": box(110, 70, 180, 150),
    "parts of cells": box(110.3, 70.9, 180.7, 149.1),
    "disc": CENTRE.buffer(39),
    "ring": CENTRE.buffer(40).difference(CENTRE.buffer(17.3)),
    "two parts": shapely.union_all([box(106, 70, 130, 150), CENTRE.buffer(12)]),
    "touching parts": shapely.MultiPolygon([box(110, 70, 130, 90), box(130, 90, 170, 150)]),
    "thin": LineString([(107, 67), (150, 120), (181, 70)]).buffer(0.4),
    "star": Polygon(
        [
            (CENTRE.x + r * np.cos(a), CENTRE.y + r * np.sin(a))
            for a, r in zip(np.linspace(0, 6, 21), [40, 11.3] * 11, strict=False)
        ]
    ),
}


def class_map_of(
    codes: np.ndarray, probability: np.ndarray | float = 0.5, entropy: np.ndarray | float = 0.5
) -> ClassMap:
    given = (steps_of(np.asarray(layer)) for layer in (probability, entropy))
    layers = (np.broadcast_to(layer, codes.shape) for layer in given)
    return ClassMap(codes.astype(np.uint8), *layers, *CORNER_M, CELL_M)


def blobs(sigma: float, seed: int, size: int = SIDE, class_count: int = 4) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((class_count, size, size))
    return ndimage.gaussian_filter(noise, (0, sigma, sigma)).argmax(axis=0).astype(np.uint8)


def outlines(objects: list[TracedObject]) -> np.ndarray:
    return np.array([o.outline_m for o in objects], dtype=object)


def assert_fills(objects: list[TracedObject], region: Polygon, rel: float = 1e-6) -> None:
    """Assert the objects are valid polygons that tile a region."""
    shapes = outlines(objects)
    assert len(shapes)
    assert shapely.is_valid(shapes).all()
    assert (shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON).all()
    union = shapely.union_all(shapes)
    assert shapely.area(shapes).sum() == pytest.approx(union.area, rel=1e-9)
    assert union.symmetric_difference(region).area <= rel * region.area


@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("chosen", [EVERYTHING, PolygonSettings(20, 10, 1), PolygonSettings()])
@pytest.mark.parametrize("sigma", [0, 3])
def test_objects_fill_the_region_without_overlap(name, chosen, sigma):
    objects = trace(class_map_of(blobs(sigma, 7)), REGIONS[name], MPP, chosen)
    assert_fills(objects, REGIONS[name], rel=1e-3 if sigma == 0 else 1e-4)


@given(
    seed=st.integers(0, 10_000),
    points=st.lists(st.tuples(st.floats(106, 190), st.floats(66, 150)), min_size=3, max_size=9),
    sigma=st.sampled_from([0.0, 1.0, 2.5]),
    chosen=st.sampled_from([EVERYTHING, PolygonSettings(8, 30, 0.7), PolygonSettings()]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_objects_fill_any_region(seed, points, sigma, chosen):
    drawn = shapely.make_valid(Polygon(points), method="structure")
    parts = [p for p in shapely.get_parts(drawn) if p.geom_type == "Polygon" and p.area > 1e-3]
    region = shapely.union_all(parts) if parts else box(*points[0], 155.5, 111.25)
    if not region.is_valid or region.area < 1e-3:
        return
    assert_fills(trace(class_map_of(blobs(sigma, seed)), region, MPP, chosen), region, rel=0.01)


@pytest.mark.parametrize("name", ["parts of cells", "ring", "star"])
def test_the_middle_of_every_cell_lies_in_an_object_of_its_class(name):
    codes = blobs(0, 11)
    objects = trace(class_map_of(codes), REGIONS[name], MPP, EVERYTHING)
    y, x = np.indices(codes.shape) + 0.5
    middles = shapely.points(CORNER_M[0] + x * CELL_M, CORNER_M[1] + y * CELL_M)
    inside = shapely.contains(REGIONS[name], middles)
    cell, found = shapely.STRtree(outlines(objects)).query(middles[inside], "within")
    np.testing.assert_array_equal(cell, np.arange(inside.sum()))
    np.testing.assert_array_equal([objects[i].code for i in found], codes[inside])


@pytest.mark.parametrize("side", [1e-3, 0.1, 1.0, 3.0])
def test_a_region_smaller_than_a_cell_is_one_object(side):
    region = box(151.3, 111.4, 151.3 + side, 111.4 + side)
    objects = trace(class_map_of(blobs(3, 1)), region, MPP, PolygonSettings())
    assert len(objects) == 1
    assert_fills(objects, region, rel=1e-9)


def test_overlap_of_neighbours_is_nil_and_borders_are_shared():
    region = REGIONS["ring"]
    shapes = outlines(trace(class_map_of(blobs(3, 5)), region, MPP, PolygonSettings(20, 10, 1)))
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    pairs = shapes[one[one < other]], shapes[other[one < other]]
    assert len(pairs[0])
    assert shapely.area(shapely.intersection(*pairs)).max() < 1e-9


def test_no_object_inside_the_region_is_below_the_smallest():
    codes = blobs(1.2, 3)
    inner = box(104, 64, 192, 152)
    before = trace(class_map_of(codes), inner, MPP, EVERYTHING)
    after = trace(class_map_of(codes), inner, MPP, PolygonSettings(40, 0, 0))
    area_um2 = shapely.area(outlines(after)) * MPP**2
    assert len(after) < len(before)
    assert area_um2.min() > 0.9 * 40  # a border that is smoothed moves a little


def test_a_small_hole_is_filled_and_a_large_one_kept():
    codes = np.zeros((SIDE, SIDE))
    codes[10:14, 10:14] = 1
    codes[25:35, 25:35] = 1
    region = box(104, 64, 192, 152)
    objects = trace(class_map_of(codes), region, MPP, PolygonSettings(0, 50, 0))
    assert [o.code for o in objects] == [0, 1]
    assert len(objects[0].outline_m.interiors) == 1


def test_areas_of_classes_are_those_of_their_cells():
    codes = blobs(9, 2, size=400)
    inner = box(104, 64, 100 + 800 - 4, 60 + 800 - 4)
    objects = trace(class_map_of(codes), inner, MPP, PolygonSettings(0, 0, 1))
    areas = np.bincount([o.code for o in objects], shapely.area(outlines(objects)))
    cells = np.bincount(codes[2:-2, 2:-2].ravel()) * CELL_M**2
    np.testing.assert_allclose(areas, cells, rtol=0.005)


def test_the_region_cuts_exactly_whatever_the_cells():
    codes = np.zeros((SIDE, SIDE))
    codes[:, SIDE // 2 :] = 1
    region = Polygon([(111.1, 71.2), (188.3, 93.4), (120.5, 147.6)])
    objects = trace(class_map_of(codes), region, MPP, PolygonSettings())
    border = CORNER_M[0] + SIDE
    left, right = box(0, 0, border, 999), box(border, 0, 999, 999)
    for found, half in zip(objects, (left, right), strict=True):
        assert found.outline_m.symmetric_difference(region.intersection(half)).area < 1e-6


def test_cells_whose_middle_is_outside_have_no_say():
    codes = np.ones((SIDE, SIDE))
    codes[:8] = 2  # ends 0.8 px into the region, less than half a cell
    region = box(120, 60 + 16 - 0.8, 160, 130)
    objects = trace(class_map_of(codes), region, MPP, EVERYTHING)
    assert [o.code for o in objects] == [1]


def test_the_same_part_of_two_regions_has_the_same_classes():
    class_map = class_map_of(blobs(4, 8))
    one, other = box(104, 64, 170, 150), box(125.5, 80.5, 192, 152)
    both = one.intersection(other)
    found = [trace(class_map, region, MPP, PolygonSettings(0, 0, 0)) for region in (one, other)]
    for code in range(4):
        first, second = (
            shapely.union_all([o.outline_m for o in objects if o.code == code]).intersection(both)
            for objects in found
        )
        assert first.symmetric_difference(second).area < 0.01 * both.area


def test_probability_and_entropy_are_means_over_the_object():
    codes = np.zeros((SIDE, SIDE))
    codes[:, SIDE // 2 :] = 1
    surely, likely, hardly = in_whole_steps(0.9), in_whole_steps(0.8), in_whole_steps(0.6)
    probability = np.where(codes == 1, surely, hardly)
    probability[:, -12:] = likely
    entropy = 1 - probability
    region = box(104, 64, 100 + 2 * (SIDE - 2), 150)
    objects = trace(class_map_of(codes, probability, entropy), region, MPP, PolygonSettings())
    expected = [hardly, (12 * surely + 10 * likely) / 22]
    assert [o.probability for o in objects] == pytest.approx(expected)
    assert [1 - o.entropy for o in objects] == pytest.approx(expected)


def test_absorbed_cells_count_neither_in_the_probability_nor_in_the_entropy():
    codes = np.zeros((SIDE, SIDE))
    codes[20:23, 20:23] = 1
    class_map = class_map_of(codes, np.where(codes == 1, 0.99, 0.5), np.where(codes == 1, 0, 0.75))
    (found,) = trace(class_map, box(104, 64, 190, 150), MPP, PolygonSettings())
    assert (found.probability, found.entropy) == (in_whole_steps(0.5), in_whole_steps(0.75))


def test_an_object_without_a_middle_of_a_cell_is_as_sure_as_its_place():
    probability = in_whole_steps(np.linspace(0.3, 0.9, SIDE)[:, None] * np.ones(SIDE))
    class_map = class_map_of(blobs(3, 1), probability, 1 - probability)
    (found,) = trace(class_map, box(151.3, 110.2, 151.4, 110.3), MPP, PolygonSettings())
    assert found.probability == pytest.approx(probability[25, 0], abs=1e-6)
    assert found.entropy == pytest.approx(1 - probability[25, 0], abs=1e-6)


def test_objects_come_by_class_then_from_the_top_left():
    objects = trace(class_map_of(blobs(2, 4)), REGIONS["disc"], MPP, EVERYTHING)
    places = [(o.code, o.outline_m.bounds[1], o.outline_m.bounds[0]) for o in objects]
    assert places == sorted(places)


def test_tracing_again_gives_the_very_same():
    once, again = (
        trace(class_map_of(blobs(2, 4)), REGIONS["star"], MPP, PolygonSettings()) for _ in range(2)
    )
    assert [(o.code, o.outline_m.wkb, o.probability) for o in once] == [
        (o.code, o.outline_m.wkb, o.probability) for o in again
    ]


def test_where_nothing_was_computed_nothing_is_found():
    empty = np.full((SIDE, SIDE), NODATA)
    assert trace(class_map_of(empty), REGIONS["disc"], MPP, PolygonSettings()) == []


@pytest.mark.parametrize("name", ["min_object_um2", "min_hole_um2", "simplify_um"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_negative_limits_are_refused(name, value):
    with pytest.raises(SettingsError, match=name):
        PolygonSettings(**{name: value})


def with_strips_of(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make strips of a map of `SIDE` columns as high as given; they are never below 8 rows."""
    monkeypatch.setattr(strips, "STRIP_CELLS", rows * (SIDE + 1))


def in_bands(class_map: ClassMap, heights: list[int]) -> list[ClassMap]:
    ends = [*np.cumsum(heights)[np.cumsum(heights) < len(class_map.codes)], len(class_map.codes)]
    return [class_map.rows(a, b) for a, b in itertools.pairwise([0, *ends])]


def described(objects: list[TracedObject]) -> list[tuple]:
    return [(o.code, o.outline_m.wkb, o.probability, o.entropy) for o in objects]


def measured_map(sigma: float, seed: int) -> ClassMap:
    """Return a map with uneven probabilities, and without data in a corner."""
    probability, entropy = np.random.default_rng(seed).random((2, SIDE, SIDE))
    codes = blobs(sigma, seed)
    y, x = np.indices(codes.shape)
    return class_map_of(np.where(x + y < seed % 40, NODATA, codes), probability, entropy)


@pytest.mark.parametrize("rows", [8, 13, SIDE])
@given(
    seed=st.integers(0, 10_000),
    sigma=st.sampled_from([0.0, 1.0, 2.5]),
    name=st.sampled_from(sorted(REGIONS)),
    heights=st.lists(st.integers(1, SIDE), max_size=20),
    chosen=st.sampled_from([EVERYTHING, PolygonSettings(8, 30, 0.7), PolygonSettings()]),
)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_bands_of_any_height_give_the_very_same_objects(
    monkeypatch, rows, seed, sigma, name, heights, chosen
):
    with_strips_of(rows, monkeypatch)
    class_map = measured_map(sigma, seed)
    bands = in_bands(class_map, heights)
    found = trace_bands(bands, class_map.frame, REGIONS[name], MPP, chosen)
    assert described(found) == described(trace(class_map, REGIONS[name], MPP, chosen))


@pytest.mark.parametrize("height", range(1, SIDE + 1))
def test_bands_of_every_height_give_the_very_same_objects(height, monkeypatch):
    with_strips_of(11, monkeypatch)
    class_map = measured_map(2, 5)
    bands = in_bands(class_map, [height] * SIDE)
    found = trace_bands(bands, class_map.frame, REGIONS["ring"], MPP, PolygonSettings())
    assert described(found) == described(trace(class_map, REGIONS["ring"], MPP, PolygonSettings()))


@given(
    seed=st.integers(0, 10_000),
    sigma=st.sampled_from([0.0, 1.0, 2.5]),
    name=st.sampled_from(sorted(REGIONS)),
    rows=st.integers(8, SIDE),
    limits=st.sampled_from([(0, 0), (8, 30), (200, 500)]),
)
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_is_not_simplified_does_not_depend_on_strips(
    monkeypatch, seed, sigma, name, rows, limits
):
    class_map, chosen = measured_map(sigma, seed), PolygonSettings(*limits, 0)
    with_strips_of(2 * SIDE, monkeypatch)
    whole = trace(class_map, REGIONS[name], MPP, chosen)
    with_strips_of(rows, monkeypatch)
    assert described(trace(class_map, REGIONS[name], MPP, chosen)) == described(whole)


@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("chosen", [PolygonSettings(20, 10, 1), PolygonSettings(0, 0, 5)])
def test_objects_traced_in_low_strips_fill_the_region_too(name, chosen, monkeypatch):
    with_strips_of(8, monkeypatch)
    objects = trace(class_map_of(blobs(3, 7)), REGIONS[name], MPP, chosen)
    assert_fills(objects, REGIONS[name], rel=1e-4)


def test_simplified_outlines_differ_only_beside_the_lines_between_strips(monkeypatch):
    with_strips_of(2 * SIDE, monkeypatch)
    whole = outlines(trace(class_map_of(blobs(3, 7)), REGIONS["disc"], MPP, PolygonSettings()))
    with_strips_of(24, monkeypatch)
    strips_ = outlines(trace(class_map_of(blobs(3, 7)), REGIONS["disc"], MPP, PolygonSettings()))
    moved = shapely.area(shapely.symmetric_difference(whole, strips_)).sum()
    assert moved < 0.01 * REGIONS["disc"].area


def test_objects_come_as_soon_as_they_are_complete(monkeypatch):
    with_strips_of(8, monkeypatch)
    codes = np.repeat(np.arange(12) % 2, 4)[:, None] * np.ones(SIDE)
    class_map = class_map_of(codes)
    tracer = Tracer(class_map.frame, box(104, 64, 190, 150), MPP, EVERYTHING)
    tracer.add(class_map)
    tops = [found.outline_m.bounds[1] for found in tracer.objects()]
    assert tops == sorted(tops)
    assert len(tops) == 12


def test_a_map_of_which_bands_are_missing_is_refused():
    class_map = class_map_of(blobs(2, 4))
    tracer = Tracer(class_map.frame, REGIONS["disc"], MPP, EVERYTHING)
    tracer.add(class_map.rows(0, SIDE - 1))
    with pytest.raises(TilingError, match="rows"):
        tracer.objects()


def test_strips_kept_on_disk_give_the_very_same_objects(monkeypatch):
    class_map = measured_map(1, 3)
    with_strips_of(8, monkeypatch)
    in_memory = trace(class_map, REGIONS["disc"], MPP, EVERYTHING)
    monkeypatch.setattr(packed, "IN_MEMORY", 100)
    assert described(trace(class_map, REGIONS["disc"], MPP, EVERYTHING)) == described(in_memory)
