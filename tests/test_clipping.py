"""Clipping: the same as one intersection of each polygon with the whole region."""

from __future__ import annotations

import numpy as np
import rasterio
import rasterio.features
import shapely
import shapely.affinity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely.geometry import Point, box

from qupath_bridge import clipping
from qupath_bridge.clipping import clipped, near_rows

quickly = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def star(rng: np.random.Generator, corners: int, radius: float) -> shapely.Polygon:
    """Return a polygon around (100, 100) with a wild outline."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    far = radius * (0.7 + 0.3 * np.sin(7 * turn + rng.random()) + 0.2 * rng.random(corners))
    return shapely.Polygon(100 + far[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1))


@st.composite
def regions(draw: st.DrawFn) -> shapely.geometry.base.BaseGeometry:
    """Draw a region of one or several parts, with holes."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    corners = draw(st.sampled_from([20, 300, 800]))
    region = star(rng, corners, 90).difference(star(rng, corners, draw(st.integers(1, 60))))
    if draw(st.booleans()):
        region = region.union(Point(180, 20).buffer(15, quad_segs=corners))
    return region


def cells(side: float) -> np.ndarray:
    """Return squares that cover the regions, and two large shapes, in no order."""
    x, y = (v.ravel() for v in np.meshgrid(*[np.arange(0, 200, side)] * 2))
    large = [Point(90, 90).buffer(80), box(0, 95, 200, 96)]
    shapes = np.concatenate([shapely.box(x, y, x + side, y + side), large])
    return np.random.default_rng(0).permutation(shapes)


def test_what_only_touches_a_rectangle_from_inside_comes_back_as_it_is():
    polygons = np.array([box(0, 0, 30, 30), box(30, 30, 50, 100), box(40, 0, 60, 10)])
    parts, owner = clipped(polygons, box(0, 0, 50, 100), 0.0)
    assert owner.tolist() == [0, 1, 2]
    assert shapely.equals_exact(parts[:2], polygons[:2]).all()
    assert parts[2].equals(box(40, 0, 50, 10))
    diamond = shapely.affinity.rotate(box(0, 0, 50, 50), 45)  # five corners too, but no box
    (part,), _ = clipped(np.array([box(*diamond.bounds)]), diamond, 0.0)
    assert shapely.symmetric_difference(part, diamond).area < 1e-9


@quickly
@given(regions(), st.sampled_from([15.0, 40.0]))
def test_polygons_are_cut_as_by_the_whole_region(monkeypatch, region, side):
    monkeypatch.setattr(clipping, "FEW_CORNERS", 10)
    polygons = cells(side)
    parts, owner = clipped(polygons, region, 0.0)
    expected = shapely.intersection(polygons, region)
    index = np.unique(owner)
    together = [shapely.union_all(parts[owner == i]) for i in index]
    apart = shapely.symmetric_difference(together, expected[index])
    assert shapely.area(apart).max() < 1e-9
    assert shapely.area(np.delete(expected, index)).max(initial=0) < 1e-9


@quickly
@given(regions())
def test_parts_are_those_of_each_polygon_in_the_region(region):
    polygons = cells(15.0)
    parts, owner = clipped(polygons, region, 0.0)
    assert (shapely.get_type_id(parts) == shapely.GeometryType.POLYGON).all()
    areas = np.bincount(owner, shapely.area(parts), minlength=len(polygons))
    whole = shapely.area(shapely.intersection(polygons, region))
    np.testing.assert_allclose(areas, whole, atol=1e-9)


@quickly
@given(regions(), st.integers(0, 150), st.integers(1, 60))
def test_a_region_near_a_strip_covers_the_same_cells_there(region, top, rows):
    near = near_rows(region, top, top + rows)
    assert shapely.get_num_coordinates(near) <= shapely.get_num_coordinates(region)
    shapes, transform = [region, near], rasterio.Affine(0.5, 0, -3, 0, 0.5, top)
    for all_touched in (False, True):
        whole, part = (
            np.zeros((2 * rows, 420), np.uint8)
            if shape.is_empty
            else rasterio.features.rasterize(
                [shape], (2 * rows, 420), transform=transform, all_touched=all_touched
            )
            for shape in shapes
        )
        np.testing.assert_array_equal(part, whole)


def test_an_outline_far_from_a_strip_is_empty_and_near_it_is_short():
    disc, hole = (Point(0, 0).buffer(radius, quad_segs=5000) for radius in (100, 50))
    ring = disc.difference(hole)
    assert near_rows(ring, 200, 300).is_empty
    assert shapely.get_num_coordinates(near_rows(ring, -1, 1)) < 500


def test_slivers_are_left_out():
    polygons = np.array([box(-5, 0, 0.001, 10), box(-5, 20, 0.1, 30), box(20, 0, 30, 10)])
    for least, kept in ((0.0, [0, 1, 2]), (30.0, [1, 2])):
        _, owner = clipped(polygons, box(0, 0, 50, 50), least)
        assert sorted(owner) == kept
