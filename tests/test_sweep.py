"""Which tiles are computed, in which bands: each once, and any band by itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Point, box

from qupath_bridge.engine.sweep import Row, Sweep
from qupath_bridge.tiles import Tile, TilePlan, tiles_of

PLAN = TilePlan(tile_m=64, stride_m=32, margin_m=8, cell_m=2)
RING = Point(300, 400).buffer(250).difference(Point(310, 390).buffer(120))


def test_a_tile_of_overlapping_regions_is_computed_once_and_knows_them_all():
    one, other = box(0, 0, 200, 200), box(100, 100, 300, 300)
    sweep = Sweep(PLAN, [one, other])
    assert len(set(sweep.tiles)) == len(sweep.tiles)
    assert set(sweep.tiles) == {*tiles_of(one, PLAN), *tiles_of(other, PLAN)}
    for tile, owners in zip(sweep.tiles, sweep.owners, strict=True):
        wanted = [i for i, o in enumerate((one, other)) if tile in tiles_of(o, PLAN)]
        assert [sweep.parts[part].region for part in owners] == wanted
    assert any(len(owners) == 2 for owners in sweep.owners)


def test_bands_are_whole_rows_and_together_all_tiles():
    sweep = Sweep(PLAN, [RING], band_tiles=20)
    assert len(sweep.bands) > 3
    places = [place for band in sweep.bands for place in band.tiles]
    assert places == list(range(len(sweep.tiles)))
    for band, following in zip(sweep.bands, sweep.bands[1:], strict=False):
        assert len(band.tiles) >= 20
        assert band.end == following.begin
        assert {sweep.tiles[p].y_m for p in band.tiles}.isdisjoint(
            {sweep.tiles[p].y_m for p in following.tiles}
        )


def test_glass_is_not_computed():
    def is_glass(tiles):
        return np.array([tile.x_m < 100 for tile in tiles])

    sweep = Sweep(PLAN, [RING], is_glass)
    assert all(tile.x_m >= 100 for tile in sweep.tiles)
    assert all(tile.x_m < 100 for tile in sweep.blanks)
    assert sorted([*sweep.tiles, *sweep.blanks]) == sorted(tiles_of(RING, PLAN))


def test_nothing_but_glass_has_bands_without_tiles():
    sweep = Sweep(PLAN, [RING], lambda tiles: np.ones(len(tiles), bool))
    assert sweep.tiles == []
    assert [len(band.tiles) for band in sweep.bands] == [0]
    assert sweep.parts_in(0) == [0]


def test_regions_far_apart_are_in_bands_of_their_own():
    sweep = Sweep(PLAN, [box(0, 0, 90, 90), box(0, 90_000, 90, 90_090)], band_tiles=5)
    spans = list(zip(sweep.first_band, sweep.last_band, strict=True))
    assert spans[0][1] < spans[1][0]
    assert len(sweep.tiles) < 60


def test_islands_share_no_pixel_and_are_swept_one_after_the_other():
    left, right = box(0, 0, 90, 500), box(400, 100, 470, 300)
    near = box(100, 420, 180, 480)
    regions = [MultiPolygon([right, left]), near]
    sweep = Sweep(PLAN, regions, band_tiles=5)
    parts = [(part.region, part.island, part.outline_m.area) for part in sweep.parts]
    assert parts == [(0, 0, left.area), (1, 0, near.area), (0, 1, right.area)]
    islands = [row.island for row in sweep.rows]
    assert islands == sorted(islands) and set(islands) == {0, 1}
    of_island = [[t for t, n in zip(sweep.tiles, islands, strict=True) if n == i] for i in (0, 1)]
    for one in of_island[0]:
        for other in of_island[1]:
            apart = max(abs(one.x_m - other.x_m), abs(one.y_m - other.y_m))
            assert apart > PLAN.tile_m
    assert set(sweep.tiles) == {t for region in regions for t in tiles_of(region, PLAN)}


def test_one_region_of_one_island_is_its_own_part():
    (part,) = Sweep(PLAN, [RING]).parts
    assert part.outline_m.equals(RING)


@settings(max_examples=60, deadline=None)
@given(
    boxes=st.lists(
        st.tuples(
            st.integers(-40, 900), st.integers(-40, 900), st.integers(1, 500), st.integers(1, 500)
        ),
        min_size=1,
        max_size=4,
    ),
    overlap=st.sampled_from([16, 32, 48]),
    band_tiles=st.integers(1, 60),
    size=st.integers(1, 7),
    data=st.data(),
)
def test_the_batches_of_a_band_are_those_it_has_in_the_whole(
    boxes, overlap, band_tiles, size, data
):
    plan = TilePlan(64, overlap, 8, 2)
    outlines = [box(x, y, x + width, y + height) for x, y, width, height in boxes]
    sweep = Sweep(plan, outlines, band_tiles=band_tiles)
    whole = sweep.batches(size, 0, len(sweep.bands))
    assert [t for batch in whole for t in batch.tiles] == sweep.tiles
    assert all(sweep.tiles[b.first : b.first + len(b.tiles)] == list(b.tiles) for b in whole)
    first = data.draw(st.integers(0, len(sweep.bands) - 1))
    end = data.draw(st.integers(first + 1, len(sweep.bands)))
    part = sweep.batches(size, first, end)
    assert part == [batch for batch in whole if batch in part]
    computed = {tile for batch in part for tile in batch.tiles}
    begin, end_row = sweep.bands[first].begin, sweep.bands[end - 1].end

    def reaches_in(tile: Tile, row: Row) -> bool:
        below = tile.y_m + plan.tile_m - plan.margin_m > begin.y_m + plan.margin_m
        return (row >= begin or (row.island == begin.island and below)) and row < end_row

    placed = zip(sweep.tiles, sweep.rows, strict=True)
    assert {tile for tile, row in placed if reaches_in(tile, row)} <= computed
