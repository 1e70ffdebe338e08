"""Small components: given to what surrounds them, the rest untouched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from strips_of_cells import absorb_small, absorbed_in, split

from qupath_bridge.classmap import NODATA

quickly = settings(max_examples=60, deadline=None, derandomize=True)
shapes = st.tuples(st.integers(1, 14), st.integers(1, 14))
maps = arrays.arrays(np.uint8, shapes, elements=st.sampled_from([0, 1, 2, NODATA]))
GAP = NODATA


def components_of(codes: np.ndarray) -> list[np.ndarray]:
    """Return one mask per 4-connected component, without those of NODATA."""
    found = []
    for code in set(np.unique(codes)) - {NODATA}:
        labels, count = ndimage.label(codes == code)
        found += [labels == label for label in range(1, count + 1)]
    return found


def touches_another(mask: np.ndarray, codes: np.ndarray) -> bool:
    return bool((ndimage.binary_dilation(mask) & ~mask & (codes != NODATA)).any())


def grid(*rows: str) -> np.ndarray:
    """Return a map of one digit a cell, "." where there are no data."""
    return np.array([[NODATA if c == "." else int(c) for c in row] for row in rows], np.uint8)


@given(codes=maps, limit=st.integers(1, 30))
@quickly
def test_only_components_without_neighbours_stay_small(codes, limit):
    absorbed = absorb_small(codes, limit, 0)
    for mask in components_of(absorbed):
        assert mask.sum() >= limit or not touches_another(mask, absorbed)


@given(codes=maps, limit=st.integers(0, 30))
@quickly
def test_large_components_and_missing_data_stay_as_they_are(codes, limit):
    absorbed = absorb_small(codes, limit, 0)
    np.testing.assert_array_equal(absorbed == NODATA, codes == NODATA)
    for mask in components_of(codes):
        if mask.sum() >= limit:
            np.testing.assert_array_equal(absorbed[mask], codes[mask])


@given(codes=maps, limit=st.integers(1, 60))
@quickly
def test_no_hole_below_the_limit_is_left(codes, limit):
    absorbed = absorb_small(codes, 0, limit)
    padded = np.pad(absorbed, 1, constant_values=NODATA)
    for mask in components_of(padded):
        around = padded[ndimage.binary_dilation(mask) & ~mask]
        neighbours = [m for m in components_of(padded) if (ndimage.binary_dilation(mask) & m).any()]
        enclosed = len(neighbours) == 2 and NODATA not in around  # itself and one other
        assert mask.sum() >= limit or not enclosed


@given(codes=maps, limit=st.integers(0, 30), hole=st.integers(0, 60), rows=st.integers(1, 15))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_strips_of_any_height_give_the_same_as_the_whole(codes, limit, hole, rows):
    whole, of_whole = absorbed_in(split(codes, None), limit, hole)
    strips, of_strips = absorbed_in(split(codes, rows), limit, hole)
    cells = [
        np.concatenate([np.repeat(a.component[r.nodes], r.lengths) for r in runs])
        for a, runs in ((whole, of_whole), (strips, of_strips))
    ]
    np.testing.assert_array_equal(*cells)
    for field in ("codes", "counts", "sums"):
        np.testing.assert_array_equal(getattr(whole, field), getattr(strips, field))


@given(codes=maps, limit=st.integers(0, 30))
@quickly
def test_cells_that_changed_their_class_are_not_counted(codes, limit):
    absorbed, _ = absorbed_in(split(codes, None), limit, 0)
    unchanged = (absorb_small(codes, limit, 0) == codes) & (codes != NODATA)
    assert absorbed.counts.sum() == unchanged.sum()
    np.testing.assert_array_equal(absorbed.sums[0], absorbed.counts)
    assert (absorbed.counts > 0).all()


@given(codes=maps)
@quickly
def test_without_limits_nothing_changes(codes):
    np.testing.assert_array_equal(absorb_small(codes, 0, 0), codes)


def test_an_island_goes_to_what_encloses_it():
    codes = grid("11111", "10011", "11111")
    assert (absorb_small(codes, 3, 0) == 1).all()
    np.testing.assert_array_equal(absorb_small(codes, 2, 0), codes)


def test_the_largest_neighbour_takes_all():
    codes = grid("1111000222", "1111000222", "1111333222", "1111000222")
    assert (absorb_small(codes, 4, 0)[2, 4:7] == 1).all()


def test_the_smallest_go_first_and_may_save_one_another():
    codes = grid("000000", "022230", "000000")
    absorbed = absorb_small(codes, 2, 0)
    np.testing.assert_array_equal(absorbed, grid("000000", "022200", "000000"))


def test_parts_that_an_absorbed_one_parted_become_one():
    codes = grid("1102211", "1102211", "1133311")
    assert len(components_of(absorb_small(codes, 5, 0))) == 1


@pytest.mark.parametrize(
    ("codes", "filled"),
    [
        (grid("11111", "10001", "11111"), True),
        (grid("11111", "10021", "11111"), False),  # two share the hole
        (grid("11111", "10001", "1...1"), False),  # it lies at the edge of the data
        (grid("10001", "11111"), False),  # it lies at the edge of the map
        (grid("1111", "1021", "1221", "1111"), False),
    ],
)
def test_a_hole_is_filled_if_one_component_encloses_it_wholly(codes, filled):
    changed = (absorb_small(codes, 0, 5) != codes).any()
    assert changed == filled


def test_holes_in_holes_are_filled_from_within():
    codes = grid("1111111", "1000001", "1022201", "1023201", "1022201", "1000001", "1111111")
    assert (absorb_small(codes, 0, 30) == 1).all()


@pytest.mark.parametrize("limit", [2, 50, 10_000])
def test_a_checkerboard_and_stripes_come_to_an_end(limit):
    y, x = np.indices((90, 90))
    for codes in ((x + y) % 2, y % 2, np.maximum(abs(x - 45), abs(y - 45)) % 2):
        absorbed = absorb_small(codes.astype(np.uint8), limit, 0)
        assert min(mask.sum() for mask in components_of(absorbed)) >= min(limit, 90 * 90)


def test_the_same_map_always_gives_the_same():
    codes = np.random.default_rng(1).integers(0, 4, (80, 80)).astype(np.uint8)
    np.testing.assert_array_equal(absorb_small(codes, 9, 0), absorb_small(codes.copy(), 9, 0))
