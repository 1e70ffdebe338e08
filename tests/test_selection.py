"""What is picked to annotate next: unsure, new, unlike each other, spread over the images."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.selection import Candidates, choose, worth_of


def candidates(images: list[int], seed: int = 0, **given: np.ndarray | None) -> Candidates:
    """Return random candidates, so many of each image, with some columns given."""
    rng = np.random.default_rng(seed)
    count = sum(images)
    embedding = rng.standard_normal((count, 8)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    columns = {
        "image": np.repeat(np.arange(len(images)), images),
        "place": rng.permutation(400)[:count, None] // np.array([20, 1]) % 20,
        "uncertainty": rng.random(count).astype(np.float32),
        "novelty": rng.random(count).astype(np.float32),
        "embedding": embedding,
    }
    return Candidates(**(columns | given))


def same_direction(count: int) -> np.ndarray:
    return np.tile(np.eye(1, 8, dtype=np.float32), (count, 1))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_picks_are_as_many_as_wanted_distinct_and_spread_evenly(images, count, seed):
    found = candidates(images, seed)
    picks = choose(found, count)
    assert len(picks) == len(set(picks)) == min(count, len(found))
    per_image = Counter(found.image[picks].tolist())
    most = max(per_image.values())
    if most > math.ceil(count / len(images)):  # only where others have nothing left
        short = [image for image, number in enumerate(images) if per_image[image] < most - 1]
        assert all(per_image[image] == images[image] for image in short)


def test_the_same_candidates_give_the_same_picks():
    assert choose(candidates([20, 20], 3), 9) == choose(candidates([20, 20], 3), 9)


def test_more_picks_begin_with_the_fewer_ones():
    found = candidates([50])
    assert choose(found, 20)[:8] == choose(found, 8)


def test_of_no_candidates_none_is_picked():
    assert choose(candidates([0]), 5) == []


@pytest.mark.parametrize("column", ["uncertainty", "novelty"])
def test_the_first_pick_is_the_most_uncertain_and_the_newest(column):
    values = np.linspace(0.1, 0.2, 30)
    values[17] = 0.21
    flat = np.full(30, 0.5)
    other = {"uncertainty": "novelty", "novelty": "uncertainty"}[column]
    found = candidates([30], **{column: values, other: flat})
    assert choose(found, 1) == [17]


@pytest.mark.parametrize("column", ["uncertainty", "novelty"])
def test_raising_what_counts_never_lowers_the_worth(column):
    found = candidates([40])
    for row in range(0, 40, 7):
        values = getattr(found, column).copy()
        values[row] += 0.5
        raised = Candidates(**(vars(found) | {column: values}))
        assert worth_of(raised)[row] >= worth_of(found)[row]


def test_scales_of_uncertainty_and_novelty_do_not_matter():
    found = candidates([40, 40])
    scaled = Candidates(
        **(vars(found) | {"uncertainty": found.uncertainty / 50, "novelty": found.novelty * 2})
    )
    assert choose(found, 12) == choose(scaled, 12)


def test_without_novelty_uncertainty_alone_counts():
    uncertainty = np.random.default_rng(1).random(30)
    found = candidates([30], uncertainty=uncertainty, novelty=None, embedding=same_direction(30))
    np.testing.assert_array_equal(np.argsort(worth_of(found)), np.argsort(uncertainty))
    assert choose(found, 1) == [int(np.argmax(uncertainty))]


def test_picks_come_from_every_kind_of_tissue_though_one_is_rare():
    rng = np.random.default_rng(2)
    kind = np.repeat([0, 1, 2], [90, 6, 4])
    embedding = np.eye(8)[kind] + 0.05 * rng.standard_normal((100, 8))
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    picks = choose(candidates([100], embedding=embedding.astype(np.float32)), 3)
    assert set(kind[picks]) == {0, 1, 2}


def test_the_surer_half_of_an_image_waits():
    uncertainty = np.linspace(0, 1, 40)
    found = candidates([20, 20], uncertainty=uncertainty, novelty=None)
    picks = choose(found, 20)
    assert all(
        uncertainty[p] >= np.median(uncertainty[found.image == found.image[p]]) for p in picks
    )
    assert sorted(choose(found, 40)) == list(range(40))


def test_neighbours_in_one_image_wait_for_what_is_far_away():
    place = np.stack([np.arange(30), np.zeros(30)], axis=1)
    flat = np.ones(30)
    found = candidates([30], place=place, uncertainty=flat, novelty=flat,
                       embedding=same_direction(30))  # fmt: skip
    picks = choose(found, 4)
    assert min(abs(a - b) for a in picks for b in picks if a != b) >= 6
