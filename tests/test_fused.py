"""Bands of class maps: whoever computes them, and wherever they were kept, they are the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Point, box

from model import HeadClass
from qupath_bridge.classmap import NODATA, stacked
from qupath_bridge.engine.band_file import packed, unpacked
from qupath_bridge.engine.fused import BandFuser, FusedBand, blank_code
from qupath_bridge.engine.sweep import Sweep
from qupath_bridge.fusion import Fuser
from qupath_bridge.tiles import Tile, TilePlan, tiles_of

PLAN = TilePlan(tile_m=64, stride_m=32, margin_m=8, cell_m=2)
GREY = (128, 128, 128)
HEADS = {
    "tissue": tuple(HeadClass(name, GREY) for name in ("Tumor", "Stroma", "Necrosis")),
    "glands": (HeadClass("Gland", GREY), HeadClass("Other", GREY, detections=False)),
}
REGIONS = [
    Point(300, 400).buffer(250).difference(Point(310, 390).buffer(120)),
    box(200, 300, 700, 420),
    box(0, 900, 50, 940),
]
SCATTERED = MultiPolygon(
    [box(800, 0, 860, 90), box(1000, 200, 1010, 210), box(820, 150, 900, 500), box(0, 850, 90, 910)]
)


def scores_of(tile: Tile) -> dict[str, np.ndarray]:
    """Return probabilities float32 [K, h, w] that depend on the place alone, and the tile."""
    steps = (np.arange(PLAN.tile_cells) + 0.5) * PLAN.cell_m
    y, x = np.meshgrid(tile.y_m + steps, tile.x_m + steps, indexing="ij")
    shift = (tile.x_m * 7 + tile.y_m * 3) % 11 / 11
    waves = [np.sin(x / 9 + y / 23 + shift), np.cos(y / 11 - x / 40), np.sin(x / 7 - shift)]
    scores = {}
    for head, classes in HEADS.items():
        raised = np.exp(3 * np.stack(waves[: len(classes)]))
        scores[head] = (raised / raised.sum(axis=0)).astype(np.float32)
    return scores


def computed(sweep: Sweep, first: int, end: int, size: int = 3) -> list[FusedBand]:
    fuser = BandFuser(sweep, HEADS, first)
    found, following = [], first
    for batch in sweep.batches(size, first, end):
        while following < batch.band:
            found.append(fuser.finish(following))
            following += 1
        for index, tile in enumerate(batch.tiles):
            fuser.add(batch.first + index, scores_of(tile))
    found += [fuser.finish(band) for band in range(following, end)]
    return found


def is_left(tiles):
    return np.array([tile.x_m < 150 for tile in tiles])


@pytest.mark.parametrize("region", range(3))
@pytest.mark.parametrize("head", HEADS)
def test_the_bands_of_a_region_are_its_whole_map(region, head):
    sweep = Sweep(PLAN, REGIONS, band_tiles=15)
    bands = computed(sweep, 0, len(sweep.bands))
    (part,) = (index for index, part in enumerate(sweep.parts) if part.region == region)
    whole = Fuser(PLAN, REGIONS[region], len(HEADS[head]))
    for tile in tiles_of(REGIONS[region], PLAN):
        whole.add(tile, scores_of(tile)[head])
    expected = whole.class_map()
    found = stacked([rows for band in bands for rows in band.maps.get((part, head), [])])
    assert (found.x_m, found.y_m, found.cell_m) == (expected.x_m, expected.y_m, expected.cell_m)
    assert (found.codes == expected.codes).all()
    assert (found.probability == expected.probability).all()
    assert (found.entropy == expected.entropy).all()


@settings(max_examples=30, deadline=None)
@given(band_tiles=st.integers(1, 60), data=st.data())
def test_a_band_computed_by_itself_is_the_same_to_the_bit(band_tiles, data):
    is_glass = data.draw(st.sampled_from([None, is_left]))
    sweep = Sweep(PLAN, [*REGIONS, SCATTERED], is_glass, band_tiles)
    whole = computed(sweep, 0, len(sweep.bands))
    first = data.draw(st.integers(0, len(sweep.bands) - 1))
    end = data.draw(st.integers(first + 1, len(sweep.bands)))
    part = computed(sweep, first, end)
    assert [packed(band) for band in part] == [packed(band) for band in whole[first:end]]


def test_glass_is_the_class_that_makes_no_objects_or_nothing():
    assert blank_code(HEADS["glands"]) == 1
    assert blank_code(HEADS["tissue"]) == NODATA
    sweep = Sweep(PLAN, [REGIONS[1]], lambda tiles: np.ones(len(tiles), bool))
    (band,) = computed(sweep, 0, 1)
    glands = stacked(band.maps[0, "glands"])
    assert set(np.unique(glands.codes)) <= {1, NODATA}
    assert (glands.codes == 1).sum() >= 500 * 120 / 4
    assert (stacked(band.maps[0, "tissue"]).codes == NODATA).all()


def test_a_band_comes_back_from_bytes_as_it_was():
    sweep = Sweep(PLAN, REGIONS, is_left, band_tiles=25)
    for band in computed(sweep, 0, len(sweep.bands)):
        band.undecodable = 3
        back = unpacked(packed(band))
        assert back.undecodable == 3
        assert back.maps.keys() == band.maps.keys()
        for key, maps in band.maps.items():
            for rows, again in zip(maps, back.maps[key], strict=True):
                assert again.frame == rows.frame
                for layer in ("codes", "probability", "entropy"):
                    assert (getattr(again, layer) == getattr(rows, layer)).all()
                    assert getattr(again, layer).dtype == getattr(rows, layer).dtype


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_damaged_bytes_are_refused(damage):
    sweep = Sweep(PLAN, REGIONS[:1])
    whole = packed(computed(sweep, 0, 1)[0])
    middle = len(whole) // 2
    contents = {
        "cut": whole[:middle],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "empty": b"",
        "other": b"PSDB0\n" + whole[6:],
    }
    with pytest.raises(ValueError, match=r"damaged|no band"):
        unpacked(contents[damage])
