"""The lattice of tiles: it covers, leaves out what it may, and does not depend on the region."""

from __future__ import annotations

import time

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Point, Polygon, box

from qupath_bridge.errors import TilingError
from qupath_bridge.tiles import Tile, TilePlan, tiles_of

PLAN = TilePlan(tile_m=64, stride_m=32, margin_m=8, cell_m=2)
PLANS = [PLAN, TilePlan(64, 48, 8, 2), TilePlan(64, 16, 4, 4), TilePlan(32, 32, 0, 1)]
quickly = settings(max_examples=25, deadline=None, derandomize=True)


def insides_of(tiles: list[Tile], plan: TilePlan) -> np.ndarray:
    left, top = np.array(tiles, float).reshape(-1, 2).T + plan.margin_m
    return shapely.box(left, top, left + plan.inside_m, top + plan.inside_m)


@st.composite
def outlines(draw: st.DrawFn) -> Polygon:
    place = st.floats(0, 400, allow_nan=False).map(lambda value: round(value, 3))
    points = draw(st.lists(st.tuples(place, place), min_size=3, max_size=7, unique=True))
    hull = shapely.convex_hull(shapely.MultiPoint(points))
    if hull.area < 1:
        hull = Point(points[0]).buffer(3)
    hole = Point(hull.centroid).buffer(draw(st.floats(1, 90)))
    rest = hull.difference(hole)
    return rest if rest.area > 1 else hull


@pytest.mark.parametrize("plan", PLANS)
@given(outline=outlines())
@quickly
def test_the_insides_of_the_tiles_cover_the_outline(plan, outline):
    covered = shapely.union_all(insides_of(tiles_of(outline, plan), plan))
    assert outline.difference(covered).area < 1e-6


@pytest.mark.parametrize("plan", PLANS)
@given(outline=outlines())
@quickly
def test_exactly_the_tiles_whose_inside_shares_area_are_computed(plan, outline):
    near = range(-4, 27)
    lattice = [Tile(x * plan.stride_m, y * plan.stride_m) for y in near for x in near]
    shared = shapely.area(shapely.intersection(insides_of(lattice, plan), outline))
    near_enough = set(lattice)
    computed = [tile for tile in tiles_of(outline, plan) if tile in near_enough]
    assert computed == [tile for tile, area in zip(lattice, shared, strict=True) if area > 0]


@given(one=outlines(), other=outlines())
@quickly
def test_overlapping_regions_have_their_tiles_in_common(one, other):
    both = set(tiles_of(one.union(other), PLAN))
    assert both == set(tiles_of(one, PLAN)) | set(tiles_of(other, PLAN))


def test_tiles_come_row_by_row_from_the_top_left():
    tiles = tiles_of(Point(300, 300).buffer(200), PLAN)
    assert tiles == sorted(tiles, key=lambda tile: (tile.y_m, tile.x_m))
    assert all(type(value) is int for value in tiles[0])


def test_a_tile_wholly_in_a_hole_is_left_out():
    ring = box(0, 0, 600, 600).difference(box(100, 100, 500, 500))
    hole = box(100, 100, 500, 500)
    assert not shapely.covers(hole, insides_of(tiles_of(ring, PLAN), PLAN)).any()
    assert len(tiles_of(ring, PLAN)) < len(tiles_of(box(0, 0, 600, 600), PLAN))


def test_a_tile_whose_inside_only_touches_the_outline_is_left_out():
    plan = TilePlan(tile_m=32, stride_m=32, margin_m=0, cell_m=2)
    assert tiles_of(box(32, 32, 64, 64), plan) == [Tile(32, 32)]


def test_the_first_tile_may_begin_outside_of_the_slide():
    assert tiles_of(box(0, 0, 1, 1), PLAN)[0] == Tile(-32, -32)


def test_parts_of_a_region_far_apart_have_no_tiles_between_them():
    parts = MultiPolygon([box(0, 0, 20, 20), box(5000, 5000, 5020, 5020)])
    assert len(tiles_of(parts, PLAN)) <= 8


def test_an_empty_outline_has_no_tiles():
    assert tiles_of(Polygon(), PLAN) == []


@pytest.mark.parametrize(
    ("sides", "reason"),
    [
        ((256, 240, 16, 2), "leave gaps"),
        ((256, 0, 16, 2), "leave gaps"),
        ((256, 128, -16, 2), "leave gaps"),
        ((256, 128, 128, 2), "leave gaps"),
        ((256, 127, 16, 2), "whole cells"),
        ((255, 128, 16, 2), "whole cells"),
        ((256, 128, 15, 2), "whole cells"),
        ((256, 128, 16, 0), "whole cells"),
    ],
)
def test_sides_that_do_not_fit_together_are_refused(sides, reason):
    with pytest.raises(TilingError, match=reason):
        TilePlan(*sides)


def test_a_hundred_thousand_tiles_take_seconds_not_minutes():
    angle = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    radius = 5700 + 300 * np.sin(17 * angle) + 40 * np.sin(900 * angle)
    outline = Polygon(np.c_[6000 + radius * np.cos(angle), 6000 + radius * np.sin(angle)])
    began = time.process_time()
    assert len(tiles_of(outline, PLAN)) > 90_000
    assert time.process_time() - began < 10
