"""Candidate squares lie on tissue, outside of what is taken, and never overlap."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Point, Polygon, box

from qupath_bridge.geometry import Mpp, Scale
from qupath_bridge.squares import LEAST_TISSUE, draw_squares, lattice_of, tile_in

SIZE = (5000, 3000)
MPP = Mpp(0.5, 0.25)
TISSUE = Point(2500, 1500).buffer(1400).difference(Point(2000, 1500).buffer(300))


def drawn(count: int = 1000, taken: list[Polygon] | None = None, seed: int = 0) -> list[Polygon]:
    lattice = lattice_of(SIZE, 100, MPP)
    return draw_squares(TISSUE, taken or [], lattice, count, np.random.default_rng(seed))


@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.floats(20, 400),
    st.tuples(st.floats(0.2, 1.0), st.floats(0.2, 1.0)),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_lattice_is_of_whole_pixels_disjoint_and_inside(size_l0, size_um, mpp):
    squares = lattice_of(size_l0, size_um, Mpp(*mpp))
    bounds = shapely.bounds(squares).reshape(-1, 4)
    assert (bounds == bounds.round()).all()
    assert (bounds >= 0).all() and (bounds[:, 2:] <= size_l0).all()
    sides_um = (bounds[:, 2:] - bounds[:, :2]) * mpp
    assert (np.abs(sides_um - size_um) <= np.array(mpp) / 2 + 1e-9).all()
    assert shapely.union_all(squares).area == pytest.approx(shapely.area(squares).sum())
    assert len(squares) == np.prod([length // round(size_um / um) for length, um in
                                    zip(size_l0, mpp, strict=True)])  # fmt: skip


def test_an_image_smaller_than_a_square_has_none():
    assert len(lattice_of((300, 90), 100, Mpp(1, 1))) == 0
    assert (
        draw_squares(TISSUE, [], lattice_of((9, 9), 10, Mpp(1, 1)), 5, np.random.default_rng(0))
        == []
    )


def test_squares_are_distinct_and_at_least_half_of_each_is_tissue():
    squares = drawn()
    assert len(squares) > 30
    assert len({square.wkb for square in squares}) == len(squares)
    shares = [square.intersection(TISSUE).area / square.area for square in squares]
    assert min(shares) >= LEAST_TISSUE and min(shares) < 0.9
    assert all(TISSUE.contains(square.centroid) for square in squares)


def test_no_square_shares_area_with_what_is_taken_but_it_may_touch_it():
    first = drawn()[0]
    bow_tie = Polygon([(2500, 500), (3500, 900), (2500, 900), (3500, 500)])
    taken = [first, bow_tie, Point(2700, 2000), MultiPolygon([box(0, 0, 1, 1)])]
    squares = drawn(taken=taken)
    assert 0 < len(squares) < len(drawn())
    for shape in map(shapely.make_valid, taken):
        assert max(square.intersection(shape).area for square in squares) == 0
    assert any(square.touches(first) for square in squares)


def test_the_seed_decides_and_a_bound_holds():
    assert drawn(7) == drawn(7) == drawn(20)[:7]
    assert drawn(7, seed=1) != drawn(7)


@pytest.mark.parametrize("mpp", [Mpp(0.5, 0.25), Mpp(0.25, 0.25), Mpp(1.1, 0.9)])
def test_a_tile_lies_in_the_middle_of_its_square(mpp):
    scale = Scale.between(mpp, 0.5)
    square = box(2048, 1024, 2048 + 256 / mpp.x, 1024 + 256 / mpp.y)
    tile = tile_in(square, scale, tile_m=256, step_m=16)
    assert tile.x_m % 16 == tile.y_m % 16 == 0
    middle_l0 = scale.to_l0(box(*tile, tile.x_m + 256, tile.y_m + 256)).centroid
    away_um = np.array(middle_l0.coords[0]) - np.array(square.centroid.coords[0])
    assert (np.abs(away_um * mpp) <= 4 + 1e-6).all()
