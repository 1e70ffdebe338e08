"""Fusion: tiles leave no trace in the map, whatever their order and the region."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from shapely.geometry import Point, Polygon, box

from qupath_bridge.blending import blend_window, normalised_entropy
from qupath_bridge.classmap import NODATA, STEPS, ClassMap, stacked
from qupath_bridge.errors import TilingError
from qupath_bridge.fusion import Fuser
from qupath_bridge.tiles import Tile, TilePlan, tiles_of

PLAN = TilePlan(tile_m=64, stride_m=32, margin_m=8, cell_m=2)
PLANS = [PLAN, TilePlan(64, 48, 8, 2), TilePlan(64, 16, 4, 4), TilePlan(32, 32, 0, 1)]
RING = Point(150, 170).buffer(120).difference(Point(160, 160).buffer(60))
Scorer = Callable[[Tile], np.ndarray]


def fuse(outline: Polygon, plan: TilePlan, score: Scorer, class_count: int = 3) -> ClassMap:
    fuser = Fuser(plan, outline, class_count)
    for tile in tiles_of(outline, plan):
        fuser.add(tile, score(tile))
    return fuser.class_map()


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(axis=0))
    return (powers / powers.sum(axis=0)).astype(np.float32)


def pointwise(y_m: np.ndarray, x_m: np.ndarray) -> np.ndarray:
    """Return probabilities [3, ...] that depend on the place on the slide alone."""
    waves = [np.sin(x_m / 9 + y_m / 23), np.cos(y_m / 11 - x_m / 40), np.sin(x_m * y_m / 900)]
    return softmax(3 * np.stack(waves))


def score_pointwise(plan: TilePlan, rim: float = np.nan) -> Scorer:
    """Return a scorer that gives `rim` where no score may be used."""

    def score(tile: Tile) -> np.ndarray:
        steps = (np.arange(plan.tile_cells) + 0.5) * plan.cell_m
        values = pointwise(*np.meshgrid(tile.y_m + steps, tile.x_m + steps, indexing="ij"))
        used = np.zeros(values.shape[1:], bool)
        inside = slice(plan.margin_cells, plan.tile_cells - plan.margin_cells)
        used[inside, inside] = True
        return np.where(used, values, np.float32(rim))

    return score


def cells_of(class_map: ClassMap) -> tuple[np.ndarray, np.ndarray]:
    """Return the middles (y, x) of a map's cells in model pixels, each [H, W]."""
    height, width = class_map.codes.shape
    cell = class_map.cell_m
    y = class_map.y_m + (np.arange(height) + 0.5) * cell
    x = class_map.x_m + (np.arange(width) + 0.5) * cell
    return tuple(np.meshgrid(y, x, indexing="ij"))


def touching(class_map: ClassMap, outline: Polygon) -> np.ndarray:
    """Return which cells share area with an outline, bool [H, W]."""
    y, x = cells_of(class_map)
    half = class_map.cell_m / 2
    boxes = shapely.box(x - half, y - half, x + half, y + half)
    return shapely.area(shapely.intersection(boxes, outline)) > 0


def assert_equals(class_map: ClassMap, expected: np.ndarray, where: np.ndarray) -> None:
    """Assert a map is the argmax, maximum and entropy of `expected` [K, H, W]."""
    assert where.any()
    np.testing.assert_array_equal(class_map.codes[where], expected.argmax(axis=0)[where])
    found, to_the_step = class_map.probability / STEPS, 0.5 / STEPS + 1e-6
    np.testing.assert_allclose(found[where], expected.max(axis=0)[where], atol=to_the_step, rtol=0)
    entropy = stats.entropy(expected, axis=0) / np.log(len(expected))
    found = class_map.entropy / STEPS
    np.testing.assert_allclose(found[where], entropy[where], atol=3e-4, rtol=0)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("outline", [RING, box(0, 0, 200, 90), box(33.3, 41.7, 34.1, 300.2)])
def test_fusing_the_crops_of_a_pointwise_function_gives_that_function(plan, outline):
    fused = fuse(outline, plan, score_pointwise(plan))
    computed = fused.codes != NODATA
    assert_equals(fused, pointwise(*cells_of(fused)), computed)
    assert computed[touching(fused, outline)].all()


@pytest.mark.parametrize("filter_of", ["uniform", "gaussian"])
def test_seams_are_invisible_for_a_translation_equivariant_function(filter_of):
    size = 300 // PLAN.cell_m
    slide = np.random.default_rng(4).random((3, size, size))
    radius = PLAN.margin_cells

    def smooth(image: np.ndarray) -> np.ndarray:
        if filter_of == "uniform":
            return ndimage.uniform_filter(image, (1, 2 * radius + 1, 2 * radius + 1))
        return ndimage.gaussian_filter(image, (0, 2, 2), radius=(0, radius, radius))

    white = np.pad(slide, ((0, 0), (100, 100), (100, 100)), constant_values=1.0)

    def score(tile: Tile) -> np.ndarray:
        y, x = (100 + start // PLAN.cell_m for start in (tile.y_m, tile.x_m))
        return softmax(40 * smooth(white[:, y : y + PLAN.tile_cells, x : x + PLAN.tile_cells]))

    fused = fuse(box(0, 0, 300, 300), PLAN, score)
    untiled = softmax(40 * smooth(white))[:, 100:-100, 100:-100]
    maps = (m[2:-2, 2:-2] for m in (fused.codes, fused.probability, fused.entropy))
    assert_equals(
        ClassMap(*maps, 0, 0, PLAN.cell_m),
        untiled,
        np.ones((size, size), bool),
    )


def test_tiles_of_a_row_come_from_left_to_right():
    fuser = Fuser(PLAN, box(0, 0, 300, 300), 3)
    scores = np.full((3, PLAN.tile_cells, PLAN.tile_cells), 1 / 3, np.float32)
    fuser.add(Tile(32, 0), scores)
    for x_m in (0, 32):
        with pytest.raises(TilingError, match="sort tiles"):
            fuser.add(Tile(x_m, 0), scores)
    fuser.add(Tile(64, 0), scores)
    fuser.add(Tile(0, 32), scores)


def test_a_buffer_may_be_used_again_after_it_was_added():
    in_order = fuse(RING, PLAN, random_scores)
    buffer = np.empty((3, PLAN.tile_cells, PLAN.tile_cells), np.float32)

    def score(tile: Tile) -> np.ndarray:
        buffer[:] = random_scores(tile)
        return buffer

    assert_same_bits(fuse(RING, PLAN, score), in_order)


def test_overlapping_regions_see_the_same_scores_bit_for_bit():
    one, other = Point(150, 150).buffer(90), box(120.5, 100.2, 260, 222)
    both = one.intersection(other)
    maps = [fuse(outline, PLAN, random_scores) for outline in (one, other)]
    common = (
        [m.codes[touching(m, both)] for m in maps],
        [m.probability[touching(m, both)] for m in maps],
        [m.entropy[touching(m, both)] for m in maps],
    )
    for first, second in common:
        np.testing.assert_array_equal(first, second)


def test_a_map_lies_on_whole_cells_with_a_collar_around_the_region():
    fused = fuse(box(33.3, 41.7, 60, 70), PLAN, random_scores)
    assert (fused.x_m, fused.y_m) == (32 - 2 * 2, 40 - 2 * 2)
    assert fused.codes.shape == (15 + 4, 14 + 4)
    dtypes = (fused.codes.dtype, fused.probability.dtype, fused.entropy.dtype)
    assert dtypes == (np.uint8, np.uint16, np.uint16)


def test_what_no_tile_saw_has_no_data():
    far_apart = shapely.union_all([box(0, 0, 20, 20), box(300, 300, 320, 320)])
    fused = fuse(far_apart, PLAN, random_scores)
    _, x = cells_of(fused)
    assert (fused.codes[(x > 140) & (x < 180)] == NODATA).all()
    assert (fused.probability[fused.codes == NODATA] == 0).all()
    assert (fused.entropy[fused.codes == NODATA] == 0).all()
    assert (fused.entropy[fused.codes != NODATA] > 0).any()


@pytest.mark.parametrize("class_count", [2, 3, 20])
def test_entropy_is_nil_where_sure_one_where_all_are_alike_and_falls_between(class_count):
    sure = np.eye(class_count)
    alike = np.full((class_count, 1), 1 / class_count)
    np.testing.assert_array_equal(normalised_entropy(sure), np.zeros(class_count))
    np.testing.assert_allclose(normalised_entropy(alike), 1, rtol=1e-6)
    shares = np.linspace(0, 1, 11)
    rising = normalised_entropy((1 - shares) * sure[:, :1] + shares * alike)
    assert (np.diff(rising) > 0).all()


def test_scores_of_more_than_one_are_sure_and_no_more():
    sure = np.zeros((3, PLAN.tile_cells, PLAN.tile_cells), np.float32)
    sure[2] = 1.004  # as rounding to bf16 may have it
    fused = fuse(box(0, 0, 200, 90), PLAN, lambda tile: sure)
    seen = fused.codes != NODATA
    assert (fused.codes[seen] == 2).all()
    assert (fused.probability[seen] == STEPS).all()
    assert (fused.entropy[seen] == 0).all()


def test_a_head_of_one_class_is_always_sure():
    assert (normalised_entropy(np.ones((1, 4, 5), np.float32)) == 0).all()


@pytest.mark.parametrize("outline", [RING, box(0, 0, 200, 90), box(33.3, 41.7, 34.1, 300.2)])
def test_bands_one_below_the_other_are_the_map(outline):
    whole = fuse(outline, PLAN, random_scores)
    fuser = Fuser(PLAN, outline, 3)
    bands = []
    for tile in tiles_of(outline, PLAN):
        fuser.add(tile, random_scores(tile))
        bands += fuser.bands()
    bands += fuser.last_bands()
    starts = np.cumsum([0] + [len(band.codes) for band in bands]) * PLAN.cell_m
    assert [band.y_m - fuser.frame.y_m for band in bands] == list(starts[:-1])
    assert_same_bits(stacked(bands), whole)
    assert whole.frame == fuser.frame


def test_a_band_lasts_until_no_tile_can_change_it():
    fuser = Fuser(PLAN, box(0, 0, 200, 300), 3)
    heights = {}
    for tile in tiles_of(box(0, 0, 200, 300), PLAN):
        fuser.add(tile, random_scores(tile))
        heights[tile.y_m] = heights.get(tile.y_m, 0) + sum(len(b.codes) for b in fuser.bands())
    assert list(heights.values())[3:] == [PLAN.stride_m // PLAN.cell_m] * (len(heights) - 3)


ISLANDS = [
    Tile(x, y) for y in range(-32, 321, 32) for x in (*range(-32, 129, 32), *range(640, 801, 32))
]


@st.composite
def kinds_of_tiles(draw: st.DrawFn) -> dict[Tile, str]:
    """Draw which tiles there are, in order, and which of them are blank."""
    kinds = st.sampled_from(["none", "blank", "scores"])
    drawn = draw(st.lists(kinds, min_size=len(ISLANDS), max_size=len(ISLANDS)))
    return {tile: kind for tile, kind in zip(ISLANDS, drawn, strict=True) if kind != "none"}


def add_all(fuser: Fuser, kinds: dict[Tile, str]) -> None:
    for tile, kind in kinds.items():
        if kind == "blank":
            fuser.add_blank(tile)
        else:
            fuser.add(tile, random_scores(tile))


@settings(deadline=None, max_examples=60)
@given(
    kinds_of_tiles(),
    st.sampled_from([box(0, 0, 800, 320), box(3, 5, 801, 299), box(-70, 40, 300, 400)]),
    st.sets(st.integers(-3, 13), max_size=6),
    st.sampled_from([1, NODATA]),
)
def test_bands_computed_each_by_itself_are_the_map(kinds, outline, cuts, blank_code):
    whole = Fuser(PLAN, outline, 3, blank_code=blank_code)
    add_all(whole, kinds)
    starts = [None, *(PLAN.stride_m * cut for cut in sorted(cuts)), None]
    bands = []
    for begin, end in pairwise(starts):
        fuser = Fuser(PLAN, outline, 3, begin, blank_code)
        reach = -np.inf if begin is None else begin + PLAN.margin_m  # insides end below it
        taken = {
            tile: kind
            for tile, kind in kinds.items()
            if tile.y_m + PLAN.margin_m + PLAN.inside_m > reach and (end is None or tile.y_m < end)
        }
        add_all(fuser, taken)
        if end is None:
            bands += fuser.last_bands()
        else:
            fuser.finish_before(end)
            bands += fuser.bands()
    rows = np.cumsum([0] + [len(band.codes) for band in bands]) * PLAN.cell_m
    assert [band.y_m - whole.frame.y_m for band in bands] == list(rows[:-1])
    assert_same_bits(stacked(bands), whole.class_map())


@settings(deadline=None, max_examples=60)
@given(kinds_of_tiles())
def test_glass_has_its_code_where_no_computed_tile_has_a_say(kinds):
    outline = box(0, 0, 800, 320)
    fused, computed = Fuser(PLAN, outline, 3, blank_code=1), Fuser(PLAN, outline, 3)
    add_all(fused, kinds)
    add_all(computed, {tile: kind for tile, kind in kinds.items() if kind == "scores"})
    class_map, expected = fused.class_map(), computed.class_map()
    y, x = cells_of(class_map)
    glass = np.zeros(y.shape, bool)
    for tile in (tile for tile, kind in kinds.items() if kind == "blank"):
        left, top = tile.x_m + PLAN.margin_m, tile.y_m + PLAN.margin_m
        inside_x = (left < x) & (x < left + PLAN.inside_m)
        glass |= inside_x & (top < y) & (y < top + PLAN.inside_m)
    glass &= expected.codes == NODATA
    expected.codes[glass], expected.probability[glass] = 1, STEPS
    assert_same_bits(class_map, expected)


def test_rows_are_finished_when_told_so_and_tiles_above_come_too_late():
    fuser = Fuser(PLAN, box(0, 0, 200, 300), 3)
    fuser.add(Tile(0, 0), random_scores(Tile(0, 0)))
    fuser.finish_before(32)
    (band,) = fuser.bands()[-1:]
    assert band.y_m + len(band.codes) * PLAN.cell_m == 32 + PLAN.margin_m
    assert (band.codes != NODATA).any()
    fuser.finish_before(96)
    last = fuser.bands()[-1]
    assert last.y_m + len(last.codes) * PLAN.cell_m == 96 + PLAN.margin_m
    with pytest.raises(TilingError, match="sort tiles"):
        fuser.add(Tile(0, 64), random_scores(Tile(0, 64)))
    fuser.add_blank(Tile(0, 96))
    with pytest.raises(TilingError, match="sort tiles"):
        fuser.add_blank(Tile(0, 64))


def test_scores_of_islands_far_apart_cost_the_islands_alone():
    tracemalloc.start()
    fuser = Fuser(PLAN, box(0, 0, 4e6, 100), 3)
    for x_m in (0, 3_900_000):
        fuser.add(Tile(x_m, 0), random_scores(Tile(x_m, 0)))
    fuser.add_blank(Tile(2_000_000, 0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert fuser.frame.width == 2_000_004
    assert peak < 5e6


def test_rows_between_parts_far_apart_take_no_memory():
    far_apart = shapely.union_all([box(0, 0, 20, 20), box(0, 4e6, 20, 4e6 + 20)])
    tracemalloc.start()
    fuser = Fuser(PLAN, far_apart, 3)
    for y_m in (0, 4_000_000):
        fuser.add(Tile(0, y_m), random_scores(Tile(0, y_m)))
    rows = sum(len(band.codes) for band in fuser.last_bands())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == fuser.frame.height > 2_000_000
    assert peak < 1e6


def test_neither_scores_nor_rows_are_held_for_longer_than_a_row_of_tiles():
    def peak(height: int) -> int:
        outline = box(0, 0, 200, height)
        tiles = tiles_of(outline, PLAN)
        tracemalloc.start()
        fuser = Fuser(PLAN, outline, 3)
        for tile in tiles:
            fuser.add(tile, random_scores(tile))
            fuser.bands()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(1600) < 1.2 * peak(400)


def test_a_tile_of_an_earlier_row_is_refused():
    fuser = Fuser(PLAN, RING, 3)
    fuser.add(Tile(0, 32), random_scores(Tile(0, 32)))
    with pytest.raises(TilingError, match="sort tiles"):
        fuser.add(Tile(0, 0), random_scores(Tile(0, 0)))


def test_scores_of_another_shape_are_refused():
    with pytest.raises(TilingError, match="shape"):
        Fuser(PLAN, RING, 4).add(Tile(0, 0), random_scores(Tile(0, 0)))


@pytest.mark.parametrize("class_count", [0, 255, 1000])
def test_a_number_of_classes_the_map_cannot_hold_is_refused(class_count):
    with pytest.raises(TilingError, match=str(class_count)):
        Fuser(PLAN, RING, class_count)


@pytest.mark.parametrize(("cells", "margin"), [(128, 8), (32, 0), (9, 4), (64, 16)])
def test_the_window_is_zero_in_the_rim_and_positive_inside(cells, margin):
    window = blend_window(cells, margin)
    inside = window[margin : cells - margin, margin : cells - margin]
    assert (inside > 0).all()
    assert np.count_nonzero(window) == inside.size
    assert window.dtype == np.float32
    np.testing.assert_allclose(window, window.T)
    np.testing.assert_allclose(window, window[::-1, ::-1], atol=1e-7)


def random_scores(tile: Tile) -> np.ndarray:
    """Return noise that is the same for the same tile."""
    rng = np.random.default_rng([tile.x_m + 10_000, tile.y_m + 10_000])
    return softmax(2 * rng.standard_normal((3, PLAN.tile_cells, PLAN.tile_cells)))


def assert_same_bits(one: ClassMap, other: ClassMap) -> None:
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.probability, other.probability)
    np.testing.assert_array_equal(one.entropy, other.entropy)
