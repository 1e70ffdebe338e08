"""Which patches to annotate next: unsure, unlike what is known, and unlike each other.

Ours, not the paper's. A patch's worth is the geometric mean of two ranks among all candidates,
that of its uncertainty and that of its novelty: ranks, since the two have no common scale. Patches
are then picked greedily, each time the one with the largest worth x distance to the nearest picked
one: k-centre's farthest point, weighted. Distance is that of the embeddings, less for neighbours in
one image. No image gets more than its even share while others have candidates left, and the lesser
half of each image's candidates waits until the better halves are used up: what is far from all
picks, but well known, is not worth a pathologist's time.
Source: Sener and Savarese 2018 (k-centre for active learning), Yang et al. 2017 (unsure ones first,
then unlike ones); weights and spread are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NEAR_SIDES = 4.0
"""A patch this many sides from a picked one in its image counts half as far as in another."""

FARTHEST = 2.0
"""The distance of opposite directions; what nothing was picked near to."""

LEAST = 1e-6
"""The distance of equal embeddings, so that worth decides among them."""


@dataclass(frozen=True)
class Candidates:
    """What is known of N patches; row n of each array is patch n's.

    image: int [N], which image it lies in, from 0. place: float [N, 2], its middle there in sides
    of a patch. uncertainty: float [N]. novelty: float [N], None where nothing is known to compare
    with. embedding: float [N, D] of unit length.
    """

    image: np.ndarray
    place: np.ndarray
    uncertainty: np.ndarray
    novelty: np.ndarray | None
    embedding: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


def choose(candidates: Candidates, count: int) -> list[int]:
    """Return the rows of up to `count` patches to annotate, the most wanted first.

    The same candidates give the same choice; of equal ones the first is taken.
    """
    if not len(candidates):
        return []
    worth = worth_of(candidates)
    better = _better_half(candidates.image, worth)
    share = math.ceil(count / len(np.unique(candidates.image)))
    apart = np.full(len(candidates), FARTHEST)
    left = np.ones(len(candidates), bool)
    picks: list[int] = []
    while left.any() and len(picks) < count:
        open_now = left & _fair(candidates.image, picks, left, share)
        if (open_now & better).any():
            open_now &= better
        pick = int(np.argmax(np.where(open_now, worth * apart, -1.0)))
        picks.append(pick)
        left[pick] = False
        apart = np.minimum(apart, _distance(candidates, pick))
    return picks


def worth_of(candidates: Candidates) -> np.ndarray:
    """Return how much each patch alone is wanted, float64 [N], above 0 and up to 1."""
    uncertain = _rank(candidates.uncertainty)
    if candidates.novelty is None:
        return uncertain
    return np.sqrt(uncertain * _rank(candidates.novelty))


def _rank(values: np.ndarray) -> np.ndarray:
    """Return the share of values that are not above each; 1 for all where all are equal."""
    return np.searchsorted(np.sort(values), values, side="right") / len(values)


def _better_half(image: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """Return which candidates are worth no less than the median of their image, bool [N]."""
    medians = np.zeros(int(image.max()) + 1)
    for one in np.unique(image):
        medians[one] = np.median(worth[image == one])
    better: np.ndarray = worth >= medians[image]
    return better


def _fair(image: np.ndarray, picks: list[int], left: np.ndarray, share: int) -> np.ndarray:
    """Return whose image may have another pick, bool [N]; where none may, those with fewest."""
    picked = np.bincount(image[picks], minlength=int(image.max()) + 1)[image]
    return picked < max(share, int(picked[left].min()) + 1)


def _distance(candidates: Candidates, pick: int) -> np.ndarray:
    """Return how unlike and far from one patch each is, float64 [N], at most `FARTHEST`."""
    cosine = candidates.embedding @ candidates.embedding[pick]
    unlike = np.sqrt(np.clip(2 - 2 * cosine.astype(np.float64), 0, FARTHEST**2))
    sides = np.linalg.norm(candidates.place - candidates.place[pick], axis=1)
    beside = candidates.image == candidates.image[pick]
    return np.maximum(unlike, LEAST) * np.where(beside, sides / (sides + NEAR_SIDES), 1.0)
