import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from model.errors import ModelError
from model.gland_metrics import object_scores, object_sums
from model.instances import (
    BACKGROUND,
    BORDER,
    GLAND,
    GlandReading,
    border_codes,
    gland_instances,
    gland_mask,
    known_glands,
)

READING = GlandReading(mpp=1.0, min_object_um2=60, min_core_um2=6)
SIDE = 96


def probabilities(codes: np.ndarray, classes: int = 3) -> np.ndarray:
    """Return [K, H, W] of a head that is sure."""
    return (codes[None] == np.arange(classes)[:, None, None]).astype(np.float32)


@st.composite
def tissues(draw) -> np.ndarray:
    """Return round glands that touch, int32: discs, each pixel its nearest centre's.

    Centres are on a jittered lattice, so that each gland has a body. Ids have gaps.
    """
    ids, jitter = draw(st.permutations(range(1, 40))), st.integers(-4, 4)
    centres = [
        (y + draw(jitter), x + draw(jitter))
        for y in range(14, SIDE, 30)
        for x in range(14, SIDE, 30)
    ]
    radius = draw(st.integers(12, 17))
    rows, cols = np.mgrid[:SIDE, :SIDE]
    far = np.stack([np.hypot(rows - y, cols - x) for y, x in centres])
    nearest = np.asarray(ids[: len(centres)], np.int32)[far.argmin(axis=0)]
    return np.where(far.min(axis=0) <= radius, nearest, 0).astype(np.int32)


@settings(max_examples=25, deadline=None)
@given(truth=tissues(), width=st.integers(1, 4))
def test_touching_glands_come_back_as_they_were(truth, width):
    found = gland_instances(probabilities(border_codes(truth, width)), READING)
    assert len(np.unique(found)) == len(np.unique(truth))
    scores = object_scores(object_sums(truth, found))
    assert scores["object_f1"] == 1
    assert scores["object_dice"] > 0.97
    np.testing.assert_array_equal(found > 0, truth > 0)


def test_glands_that_touch_aslant_part_where_they_did():
    rows, cols = np.mgrid[:160, :160] - 80
    wrong = 0
    for turn in np.linspace(0, np.pi, 7):
        side = np.where(cols * np.cos(turn) + rows * np.sin(turn) > 9, 1, 2)
        truth = np.where(np.hypot(rows, cols) < 60, side, 0).astype(np.int32)
        found = gland_instances(probabilities(border_codes(truth, 6)), READING)
        other = np.where(found > 0, 3 - found, 0)
        wrong += min((found != truth).sum(), (other != truth).sum())
    assert wrong / 7 < 15  # pixels, of 11 000; growing without a distance gets 31 wrong


@settings(max_examples=25, deadline=None)
@given(truth=tissues(), width=st.floats(1, 5))
def test_border_is_what_is_near_another_gland_or_none(truth, width):
    codes = border_codes(truth, width)
    np.testing.assert_array_equal(codes == BACKGROUND, truth == 0)
    for number in np.unique(truth[truth > 0]):
        own = truth == number
        depth = ndimage.distance_transform_edt(own)
        np.testing.assert_array_equal(codes[own] == BORDER, depth[own] <= width)


@settings(max_examples=25, deadline=None)
@given(truth=tissues())
def test_wider_borders_hold_narrower_ones(truth):
    narrow, wide = (border_codes(truth, width) == BORDER for width in (2, 4))
    assert (wide >= narrow).all()
    assert wide.sum() > narrow.sum()


def test_the_edge_of_the_image_is_no_border():
    truth = np.zeros((20, 20), np.int32)
    truth[:, :10] = 3
    codes = border_codes(truth, 2)
    assert (codes[:, :8] == GLAND).all()
    assert (codes[:, 8:10] == BORDER).all()
    assert (border_codes(np.full((20, 20), 3), 2) == GLAND).all()


def test_no_gland_gives_background_and_no_instance():
    codes = border_codes(np.zeros((9, 9), np.int32), 2)
    assert not codes.any()
    assert not gland_instances(probabilities(codes), READING).any()


@pytest.mark.parametrize("width", [0, 0.5, float("nan")])
def test_a_border_without_width_is_refused(width):
    with pytest.raises(ModelError, match="give 1 px or more"):
        border_codes(np.zeros((9, 9), np.int32), width)


def test_glands_that_touch_stay_one_where_the_head_knows_no_border():
    codes = np.zeros((40, 60), np.uint8)
    codes[10:30, 5:50] = 1
    reading = GlandReading(mpp=1.0, border=None)
    found = gland_instances(probabilities(codes, classes=2), reading)
    np.testing.assert_array_equal(found > 0, codes > 0)
    assert found.max() == 1


def test_holes_in_a_gland_are_filled_and_a_gland_in_a_hole_stays():
    codes = np.zeros((60, 60), np.uint8)
    codes[5:55, 5:55] = GLAND
    codes[15:45, 15:45] = BACKGROUND
    codes[22:38, 22:38] = GLAND
    found = gland_instances(probabilities(codes), READING)
    assert found[0, 0] == 0
    assert found[17, 17] == found[5, 5]
    assert found[30, 30] not in (0, found[5, 5])


def test_what_is_not_known_is_in_no_gland_even_as_a_hole():
    codes = np.zeros((40, 40), np.uint8)
    codes[5:35, 5:35] = GLAND
    known = np.ones((40, 40), bool)
    known[15:25, 15:25] = False
    found = known_glands(probabilities(codes), known, READING)
    np.testing.assert_array_equal(found > 0, (codes > 0) & known)


def test_small_objects_go_and_ids_have_no_gaps():
    codes = np.zeros((40, 60), np.uint8)
    codes[2:6, 2:6] = GLAND  # 16 px, below the 60 of the reading
    codes[10:30, 5:25] = GLAND
    codes[10:30, 30:50] = GLAND
    found = gland_instances(probabilities(codes), READING)
    assert sorted(np.unique(found)) == [0, 1, 2]
    assert found[3, 3] == 0
    assert found.dtype == np.int32


def test_small_is_meant_in_um2():
    codes = np.zeros((20, 20), np.uint8)
    codes[5:15, 5:15] = GLAND  # 100 px
    for mpp, there in ((1.0, True), (0.5, False)):
        found = gland_instances(probabilities(codes), GlandReading(mpp=mpp, min_object_um2=60))
        assert found.any() == there


def test_a_gland_of_border_only_is_one_gland():
    codes = np.zeros((30, 60), np.uint8)
    codes[10:20, 5:15] = BORDER
    codes[8:24, 30:50] = BORDER
    codes[12:20, 35:45] = GLAND
    found = gland_instances(probabilities(codes), READING)
    np.testing.assert_array_equal(found > 0, codes > 0)
    assert found.max() == 2


def test_gland_is_where_inside_and_border_together_outweigh_the_rest():
    soft = np.array([0.4, 0.3, 0.3])[:, None, None] * np.ones((3, 4, 4))
    assert gland_mask(soft, READING).all()
    assert not gland_mask(soft[[1, 0, 2]], GlandReading(mpp=1.0, border=None)).any()


def test_real_glands_come_back_from_their_codes(shared_data):
    from PIL import Image

    file = shared_data / "glas" / "testA" / "testA_10_anno.png"
    with Image.open(file) as mask:
        truth = np.array(mask).astype(np.int32)
    # The truth holds slivers of glands at the image's edge, so no object is too small here.
    reading = GlandReading(mpp=0.62005, min_object_um2=0)
    found = gland_instances(probabilities(border_codes(truth, 4)), reading)
    scores = object_scores(object_sums(truth, found))
    assert scores["object_f1"] == 1
    assert scores["object_dice"] > 0.999
