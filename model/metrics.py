"""Pixel metrics from confusion matrices, with bootstrap intervals over images.

Everything measured is a ratio of sums over images. So an image is one row of numbers that add up,
a resample is a weighted sum of rows, and a thousand resamples are one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from model.errors import ModelError
from model.labels import IGNORED

Scores = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Resampling:
    """How bootstrap intervals are made: percentiles of `resamples` draws of images."""

    resamples: int = 1000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Interval:
    """A measured value and the ends of its interval, float64 arrays of one shape.

    The ends are NaN where the value is, and where there are fewer than two images.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def confusion(truth: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """Return pixel counts int64 [K, K]: class in truth down, class found across.

    truth, found: uint8 [H, W], codes below `classes`. Pixels whose truth is IGNORED stay out.

    Raises:
        ModelError: the shapes differ, or a pixel that counts has a code without a class.
    """
    if truth.shape != found.shape:
        raise ModelError(
            f"truth is {truth.shape} and prediction {found.shape} pixels; they must be alike"
        )
    known = truth != IGNORED
    down, across = truth[known].astype(np.int64), found[known].astype(np.int64)
    highest = max(down.max(initial=0), across.max(initial=0))
    if highest >= classes:
        raise ModelError(f"code {highest} has no class; there are {classes}, counted from 0")
    return np.bincount(down * classes + across, minlength=classes**2).reshape(classes, classes)


def pixel_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores of confusion matrices [..., K, K], each float64, 0..1.

    dice, iou, precision, recall are [..., K]; accuracy, mean_dice, mean_iou are [...]. A class
    in neither truth nor prediction has no score (NaN) and is left out of the means, which are
    over all other classes, background too. A class only predicted has no recall, one never
    predicted no precision: NaN as well.
    """
    both = np.diagonal(counts, axis1=-2, axis2=-1)
    in_truth, in_found = counts.sum(axis=-1), counts.sum(axis=-2)
    dice = ratio(2 * both, in_truth + in_found)
    iou = ratio(both, in_truth + in_found - both)
    return {
        "dice": dice,
        "iou": iou,
        "precision": ratio(both, in_found),
        "recall": ratio(both, in_truth),
        "accuracy": ratio(both.sum(axis=-1), counts.sum(axis=(-2, -1))),
        "mean_dice": mean_of_defined(dice),
        "mean_iou": mean_of_defined(iou),
    }


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return above / below as float64, NaN where below is 0."""
    shape = np.broadcast_shapes(np.shape(above), np.shape(below))
    undefined = np.full(shape, np.nan)
    return np.divide(above, below, out=undefined, where=np.asarray(below) != 0)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is not NaN; NaN where nothing is left."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


def rows_of_means(values: np.ndarray) -> np.ndarray:
    """Return rows [N, ..., 2] of values [N, ...], for `mean_over_images`.

    An image whose value is NaN counts in no mean.
    """
    defined = ~np.isnan(values)
    return np.stack([np.where(defined, values, 0.0), defined], axis=-1)


def mean_over_images(sums: np.ndarray) -> Scores:
    """Return the mean over images from sums [..., 2] of `rows_of_means`, as score "mean"."""
    return {"mean": ratio(sums[..., 0], sums[..., 1])}


def bootstrap(
    rows: np.ndarray, score: Callable[[np.ndarray], Scores], how: Resampling
) -> dict[str, Interval]:
    """Return each score of the sum over images, with its percentile interval.

    rows: [N, ...], one per image, such that those of a set of images add up. score: from such
    sums [..., *row] to named scores. Whole images are drawn, N with replacement, since pixels of
    one image are not independent. A draw in which a score is undefined does not count for it.
    """
    count = len(rows)
    if count == 0:
        raise ModelError("there is no image to measure; give at least one with labels")
    values = score(rows.sum(axis=0))
    rng = np.random.default_rng(how.seed)
    times = rng.multinomial(count, np.full(count, 1 / count), size=how.resamples)
    flat = times.astype(np.float64) @ rows.reshape(count, -1).astype(np.float64)
    drawn = score(flat.reshape(how.resamples, *rows.shape[1:]))
    return {name: _interval(values[name], drawn[name], count, how.level) for name in values}


def _interval(value: np.ndarray, drawn: np.ndarray, images: int, level: float) -> Interval:
    """Return the interval of one score: value [...], drawn [R, ...]."""
    flat = drawn.reshape(len(drawn), -1)
    ends = np.full((2, flat.shape[1]), np.nan)
    sure = ~np.isnan(flat).all(axis=0) & ~np.isnan(np.ravel(value))
    if images > 1 and sure.any():  # one image says nothing of how images differ
        tail = (1 - level) / 2
        ends[:, sure] = np.nanquantile(flat[:, sure], [tail, 1 - tail], axis=0)
    low, high = ends.reshape(2, *np.shape(value))
    return Interval(np.asarray(value), np.asarray(low), np.asarray(high))
