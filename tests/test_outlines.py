"""Outlines of cells: a coverage, one polygon per component, with smooth borders."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from strips_of_cells import outline_cells

from qupath_bridge.classmap import NODATA

quickly = settings(max_examples=60, deadline=None, derandomize=True)
shapes = st.tuples(st.integers(1, 14), st.integers(1, 14))
maps = arrays.arrays(np.uint8, shapes, elements=st.sampled_from([0, 1, 2, NODATA]))


def blobs(size: int, class_count: int, sigma: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((class_count, size, size))
    return ndimage.gaussian_filter(noise, (0, sigma, sigma)).argmax(axis=0).astype(np.uint8)


def spiral(size: int) -> np.ndarray:
    """Return a map with one arm of class 1 winding to its middle."""
    y, x = np.indices((size, size)) - size / 2 + 0.5
    turn = np.hypot(x, y) / 3 + np.arctan2(y, x) / np.pi
    return (np.floor(turn) % 2).astype(np.uint8)


def assert_coverage(codes: np.ndarray, polygons: np.ndarray, polygon_codes: np.ndarray) -> None:
    assert shapely.is_valid(polygons).all()
    assert (shapely.get_type_id(polygons) == shapely.GeometryType.POLYGON).all()
    assert shapely.coverage_is_valid(polygons)
    assert np.isclose(shapely.area(polygons).sum(), (codes != NODATA).sum())
    for code in set(np.unique(codes)) - {NODATA}:
        assert (polygon_codes == code).sum() == ndimage.label(codes == code)[1]


@pytest.mark.parametrize("tolerance", [0, 1, 3])
@given(codes=maps)
@quickly
def test_outlines_cover_the_data_without_gaps_or_overlaps(tolerance, codes):
    assert_coverage(codes, *outline_cells(codes, tolerance))


@pytest.mark.parametrize("tolerance", [0, 1, 3])
@given(codes=maps, rows=st.integers(4, 20))
@quickly
def test_outlines_traced_strip_by_strip_cover_the_data_too(tolerance, codes, rows):
    assert_coverage(codes, *outline_cells(codes, tolerance, rows))


@given(codes=maps, rows=st.integers(4, 15))
@quickly
def test_outlines_are_the_same_however_high_the_strips_are(codes, rows):
    whole, strips = outline_cells(codes, 0), outline_cells(codes, 0, rows)
    np.testing.assert_array_equal(whole[1], strips[1])
    assert shapely.to_wkb(whole[0]).tolist() == shapely.to_wkb(strips[0]).tolist()


@given(codes=maps)
@quickly
def test_the_middle_of_every_cell_lies_in_an_outline_of_its_class(codes):
    polygons, polygon_codes = outline_cells(codes, 0)
    y, x = np.nonzero(codes != NODATA)
    cell, polygon = shapely.STRtree(polygons).query(shapely.points(x + 0.5, y + 0.5), "within")
    np.testing.assert_array_equal(cell, np.arange(len(x)))
    np.testing.assert_array_equal(polygon_codes[polygon], codes[y, x])


@pytest.mark.parametrize("tolerance", [0, 1, 3])
@pytest.mark.parametrize("rows", [None, 4, 13])
@pytest.mark.parametrize(
    "codes",
    [
        (np.indices((30, 30)).sum(axis=0) % 2).astype(np.uint8),
        np.random.default_rng(0).integers(0, 3, (40, 40)).astype(np.uint8),
        spiral(60),
        blobs(160, 4, 3),
        np.kron(np.eye(8, dtype=np.uint8), np.ones((5, 5), np.uint8)),
    ],
    ids=["checkerboard", "noise", "spiral", "blobs", "touching at corners"],
)
def test_hard_maps_are_coverages_too(codes, tolerance, rows):
    assert_coverage(codes, *outline_cells(codes, tolerance, rows))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sigma", [0.7, 2, 6])
def test_simplifying_strip_by_strip_keeps_few_points_more(sigma, seed):
    codes = blobs(400, 4, sigma, seed)
    whole, strips = (
        shapely.get_num_coordinates(outline_cells(codes, 1, rows)[0]).sum() for rows in (None, 50)
    )
    assert whole <= strips < 1.05 * whole


def test_no_point_is_given_up_across_another_outline():
    y, x = np.indices((60, 60))
    codes = ((x * 3 + y) // 7 % 2 + (abs(x - 30) < 2)).astype(np.uint8)
    assert_coverage(codes, *outline_cells(codes, 50))


def test_a_map_without_data_has_no_outlines():
    polygons, codes = outline_cells(np.full((4, 4), NODATA, np.uint8), 1)
    assert len(polygons) == len(codes) == 0


@pytest.mark.parametrize("tolerance", [0, 0.5, 1])
def test_the_edge_of_the_data_stays_where_it_is(tolerance):
    data = spiral(40) == 1
    codes = np.where(data, blobs(40, 3, 2), np.uint8(NODATA))
    polygons, _ = outline_cells(codes, tolerance)
    y, x = np.nonzero(data)
    cells = shapely.union_all(shapely.box(x, y, x + 1, y + 1))
    assert shapely.union_all(polygons).symmetric_difference(cells).area < 1e-9


def test_a_slanted_border_is_one_straight_line():
    codes = np.tril(np.ones((40, 40), np.uint8))
    polygons, _ = outline_cells(codes, 0)
    assert max(shapely.get_num_coordinates(polygons)) <= 8


def test_a_hole_is_a_hole():
    codes = np.ones((9, 9), np.uint8)
    codes[3:6, 3:6] = 0
    polygons, polygon_codes = outline_cells(codes, 0)
    assert list(shapely.get_num_interior_rings(polygons[polygon_codes == 1])) == [1]


@pytest.mark.parametrize("seed", range(3))
def test_smoothing_keeps_the_areas_of_classes(seed):
    codes = blobs(300, 5, 8, seed)
    polygons, polygon_codes = outline_cells(codes, 1)
    areas = np.bincount(polygon_codes, shapely.area(polygons))
    np.testing.assert_allclose(areas, np.bincount(codes.ravel()), rtol=0.005)


def test_outlines_stay_within_a_cell_of_the_truth():
    y, x = np.indices((80, 80)) + 0.5
    circle = shapely.Point(40.2, 39.7).buffer(30, quad_segs=64)
    codes = (np.hypot(x - 40.2, y - 39.7) < 30).astype(np.uint8)
    polygons, polygon_codes = outline_cells(codes, 1)
    (outline,) = polygons[polygon_codes == 1]
    assert outline.exterior.hausdorff_distance(circle.exterior) < 0.7
    assert outline.area == pytest.approx(circle.area, rel=0.005)
    assert len(outline.exterior.coords) < 80
