import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from model.errors import ModelError
from model.labels import IGNORED
from model.metrics import (
    Resampling,
    bootstrap,
    confusion,
    mean_of_defined,
    mean_over_images,
    pixel_scores,
    ratio,
    rows_of_means,
)

SHAPE, CLASSES = (7, 9), 4
codes = hnp.arrays(np.uint8, SHAPE, elements=st.integers(0, CLASSES - 1))
masks = hnp.arrays(bool, SHAPE)


@given(truth=codes, found=codes)
def test_every_score_is_that_of_scikit_learn(truth, found):
    a, b, labels = truth.ravel(), found.ravel(), list(range(CLASSES))
    counts = confusion(truth, found, CLASSES)
    np.testing.assert_array_equal(counts, sk.confusion_matrix(a, b, labels=labels))

    ours = pixel_scores(counts)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        a, b, labels=labels, zero_division=np.nan
    )
    np.testing.assert_allclose(ours["precision"], precision)
    np.testing.assert_allclose(ours["recall"], recall)
    np.testing.assert_allclose(ours["dice"], f1)
    there = sorted(set(a) | set(b))
    iou = sk.jaccard_score(a, b, labels=there, average=None, zero_division=0)
    np.testing.assert_allclose(ours["iou"][there], iou)
    assert np.isnan(np.delete(ours["iou"], there)).all()
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(a, b))
    assert ours["mean_iou"] == pytest.approx(iou.mean())
    assert ours["mean_dice"] == pytest.approx(
        sk.f1_score(a, b, labels=there, average="macro", zero_division=0)
    )


@given(truth=codes, found=codes, other=codes, hidden=masks)
def test_what_is_predicted_where_nothing_is_known_changes_nothing(truth, found, other, hidden):
    truth = np.where(hidden, IGNORED, truth).astype(np.uint8)
    changed = np.where(hidden, other, found).astype(np.uint8)
    counts = confusion(truth, found, CLASSES)
    np.testing.assert_array_equal(counts, confusion(truth, changed, CLASSES))
    assert counts.sum() == (~hidden).sum()


@given(truth=codes, found=codes)
def test_halves_of_an_image_add_up_to_it(truth, found):
    upper, lower = (confusion(truth[s], found[s], CLASSES) for s in (np.s_[:3], np.s_[3:]))
    np.testing.assert_array_equal(upper + lower, confusion(truth, found, CLASSES))


def test_a_class_in_neither_is_left_out_of_the_means_and_one_missed_is_not():
    # Class 0: 2 of 2 right, 1 too many. Class 1: missed. Class 2: in neither.
    scores = pixel_scores(np.array([[2, 0, 0], [1, 0, 0], [0, 0, 0]]))
    np.testing.assert_allclose(scores["dice"], [4 / 5, 0, np.nan])
    np.testing.assert_allclose(scores["iou"], [2 / 3, 0, np.nan])
    np.testing.assert_allclose(scores["precision"], [2 / 3, np.nan, np.nan])
    np.testing.assert_allclose(scores["recall"], [1, 0, np.nan])
    assert scores["mean_dice"] == pytest.approx(2 / 5)
    assert scores["mean_iou"] == pytest.approx(1 / 3)


def test_nothing_measured_is_no_score():
    assert np.isnan(pixel_scores(np.zeros((2, 2), np.int64))["mean_dice"])
    assert np.isnan(mean_of_defined(np.array([np.nan, np.nan])))
    assert np.isnan(ratio(np.array(1), np.array(0)))


def test_scores_of_many_matrices_are_those_of_each():
    counts = np.random.default_rng(0).integers(0, 5, (6, 3, 3))
    together = pixel_scores(counts)
    for name, values in together.items():
        np.testing.assert_array_equal(values, [pixel_scores(one)[name] for one in counts])


@pytest.mark.parametrize(
    ("truth", "found", "words"),
    [
        (np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), "must be alike"),
        (np.full((2, 2), 7, np.uint8), np.zeros((2, 2), np.uint8), "code 7 has no class"),
    ],
)
def test_what_cannot_be_compared_is_said(truth, found, words):
    with pytest.raises(ModelError, match=words):
        confusion(truth, found, 3)


def test_an_interval_is_that_of_scipy():
    from scipy import stats

    values = np.random.default_rng(3).normal(0.7, 0.1, 40)
    ours = bootstrap(rows_of_means(values), mean_over_images, Resampling(resamples=5000))["mean"]
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.003)
    assert ours.high == pytest.approx(theirs.high, abs=0.003)


def test_an_interval_of_95_percent_holds_the_truth_about_that_often():
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        rows = rows_of_means(rng.normal(0.5, 0.2, 50))
        interval = bootstrap(rows, mean_over_images, Resampling(resamples=300))["mean"]
        held += bool(interval.low <= 0.5 <= interval.high)
    assert 0.88 <= held / 200 <= 0.99


def test_resampling_pools_the_matrices_of_the_drawn_images():
    # Two images, one all right and one all wrong: a draw has 0, 1/2 or all pixels right.
    rows = np.array([[[4, 0], [0, 4]], [[0, 4], [4, 0]]])
    interval = bootstrap(rows, pixel_scores, Resampling())["accuracy"]
    assert (interval.low, interval.value, interval.high) == (0, 0.5, 1)


def test_intervals_are_the_same_each_time_and_other_with_another_seed():
    rows = np.random.default_rng(0).integers(0, 9, (12, 3, 3))
    first, again, other = (
        bootstrap(rows, pixel_scores, Resampling(seed=seed))["dice"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.low, again.low)
    assert (first.low != other.low).any()


def test_equal_images_have_an_interval_without_width():
    rows = np.repeat(np.array([[[5, 1], [2, 6]]]), 10, axis=0)
    dice = bootstrap(rows, pixel_scores, Resampling())["dice"]
    np.testing.assert_allclose(dice.low, dice.high)
    np.testing.assert_allclose(dice.low, dice.value)


def test_one_image_has_no_interval():
    interval = bootstrap(np.array([[[5, 1], [2, 6]]]), pixel_scores, Resampling())["accuracy"]
    assert interval.value == pytest.approx(11 / 14)
    assert np.isnan(interval.low)
    assert np.isnan(interval.high)


def test_a_class_that_is_nowhere_has_neither_score_nor_interval():
    rows = np.zeros((5, 2, 2), np.int64)
    rows[:, 0, 0] = 3
    dice = bootstrap(rows, pixel_scores, Resampling())["dice"]
    assert np.isnan([dice.value[1], dice.low[1], dice.high[1]]).all()
    assert dice.value[0] == 1


def test_images_without_a_class_count_in_no_mean_of_it():
    values = np.array([[0.5, np.nan], [0.7, 0.2]])
    mean = bootstrap(rows_of_means(values), mean_over_images, Resampling())["mean"]
    np.testing.assert_allclose(mean.value, [0.6, 0.2])


def test_no_image_is_said():
    with pytest.raises(ModelError, match="no image to measure"):
        bootstrap(np.zeros((0, 2, 2)), pixel_scores, Resampling())
