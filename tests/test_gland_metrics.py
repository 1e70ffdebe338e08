import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist

from model.errors import ModelError
from model.gland_metrics import object_scores, object_sums

labels = hnp.arrays(np.int32, (8, 9), elements=st.integers(0, 3))


def painted(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Return instances int32 [20, 40]; box i (top, left, bottom, right) has id i + 1."""
    image = np.zeros((20, 40), np.int32)
    for number, (top, left, bottom, right) in enumerate(boxes, start=1):
        image[top:bottom, left:right] = number
    return image


def scores(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    return {name: float(v) for name, v in object_scores(object_sums(truth, found)).items()}


def slow_hausdorff(one: np.ndarray, other: np.ndarray) -> float:
    between = cdist(np.argwhere(one), np.argwhere(other))
    return max(between.min(axis=1).max(), between.min(axis=0).max())


def slow_sides(own: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return one side's weighted Dice and distance by the definition, object by object."""
    masks = [other == i for i in np.unique(other[other > 0])]
    dice = far = 0.0
    for number in np.unique(own[own > 0]):
        mask = own == number
        share = mask.sum() / (own > 0).sum()
        partner = max(masks, key=lambda m: (m & mask).sum())
        both = (partner & mask).sum()
        dice += share * 2 * both / (partner.sum() + mask.sum())
        reach = [slow_hausdorff(mask, m) for m in masks]
        far += share * (slow_hausdorff(mask, partner) if both else min(reach))
    return dice, far


@settings(max_examples=60)
@given(truth=labels, found=labels)
def test_dice_and_distance_are_those_of_the_definition_by_hand(truth, found):
    if not (truth.any() and found.any()):
        return
    ours = scores(truth, found)
    (dice_a, far_a), (dice_b, far_b) = slow_sides(truth, found), slow_sides(found, truth)
    assert ours["object_dice"] == pytest.approx((dice_a + dice_b) / 2)
    assert ours["object_hausdorff"] == pytest.approx((far_a + far_b) / 2)


@given(truth=labels, found=labels)
def test_dice_and_distance_do_not_care_which_side_is_which(truth, found):
    ours, swapped = scores(truth, found), scores(found, truth)
    for name in ("object_dice", "object_hausdorff"):
        assert ours[name] == pytest.approx(swapped[name], nan_ok=True)


@given(truth=labels, found=labels)
def test_ids_need_not_be_counted_from_one(truth, found):
    names = np.array([0, 7, 41, 900])  # in this order, since of equal partners the lowest counts
    np.testing.assert_allclose(object_sums(truth, found), object_sums(names[truth], found * 5))


@given(truth=labels)
def test_the_truth_itself_is_perfect(truth):
    ours = scores(truth, truth)
    if truth.any():
        assert ours == {"object_f1": 1, "object_dice": 1, "object_hausdorff": 0}
    else:
        assert all(math.isnan(v) for v in ours.values())


def test_half_of_a_gland_is_found_and_less_is_not():
    truth = painted((0, 0, 10, 10))
    assert scores(truth, painted((0, 0, 10, 5)))["object_f1"] == 1
    assert scores(truth, painted((0, 0, 10, 4)))["object_f1"] == 0


def test_one_large_object_over_two_glands_finds_one():
    truth = painted((0, 0, 10, 10), (0, 12, 10, 20))
    ours = scores(truth, painted((0, 0, 10, 20)))
    # The partner is the first gland: 1 true positive, 1 false negative.
    assert ours["object_f1"] == pytest.approx(2 / 3)
    # Found (200 px): Dice with the first gland 200/300. True: 200/300 and 160/280, by area.
    true_side = (100 * 200 / 300 + 80 * 160 / 280) / 180
    assert ours["object_dice"] == pytest.approx((200 / 300 + true_side) / 2)
    # Distances: first gland 10 px (columns 10 to 19), second gland 12 px.
    true_side = (100 * 10 + 80 * 12) / 180
    assert ours["object_hausdorff"] == pytest.approx((10 + true_side) / 2)


def test_a_gland_in_two_halves_counts_each_time_it_covers_half():
    truth = painted((0, 0, 10, 10))
    assert object_sums(truth, painted((0, 0, 10, 5), (0, 5, 10, 10)))[:3].tolist() == [2, 0, 0]
    assert object_sums(truth, painted((0, 0, 10, 6), (0, 6, 10, 10)))[:3].tolist() == [1, 1, 0]


def test_an_object_that_meets_nothing_is_compared_with_the_nearest():
    truth = painted((0, 0, 4, 4), (0, 30, 4, 34))
    found = painted((0, 0, 4, 4), (0, 24, 4, 28))
    ours = scores(truth, found)
    assert ours["object_f1"] == 0.5
    assert ours["object_dice"] == 0.5
    assert ours["object_hausdorff"] == pytest.approx(3)  # 0 and 6 px, equal areas, both ways


def test_a_ring_is_far_from_the_disc_in_its_hole():
    rows, cols = np.mgrid[:41, :41] - 20
    radius = np.hypot(rows, cols)
    ring, disc = ((radius > 10) & (radius < 18)).astype(int), (radius <= 10).astype(int)
    ours = scores(ring, disc)
    # The centre of the disc, not its rim, is farthest from the ring.
    assert ours["object_hausdorff"] == pytest.approx(slow_hausdorff(ring > 0, disc > 0))
    assert ours["object_hausdorff"] > 10


def test_where_one_side_is_empty_nothing_was_right_and_the_distance_is_the_diagonal():
    truth, nothing = painted((0, 0, 4, 4)), painted()
    for ours in (scores(truth, nothing), scores(nothing, truth)):
        assert ours["object_f1"] == 0
        assert ours["object_dice"] == 0
        assert ours["object_hausdorff"] == pytest.approx(math.hypot(20, 40))


def test_glands_of_several_images_weigh_by_area_over_all_of_them():
    large, small = painted((0, 0, 10, 10)), painted((0, 0, 2, 2))
    rows = object_sums(large, large) + object_sums(small, painted((0, 0, 2, 1)))
    pooled = object_scores(rows)
    dice = 2 * 2 / (4 + 2)
    assert pooled["object_dice"] == pytest.approx(
        ((100 + 4 * dice) / 104 + (100 + 2 * dice) / 102) / 2
    )
    assert pooled["object_f1"] == 1


def test_an_image_that_is_gland_all_over_is_measured():
    whole = np.ones((5, 5), np.int32)
    assert scores(whole, whole)["object_f1"] == 1


def test_images_of_two_sizes_are_refused():
    with pytest.raises(ModelError, match="pixels"):
        object_sums(np.zeros((4, 4), np.int32), np.zeros((4, 5), np.int32))
