"""The three measures of the GlaS challenge: object F1, object Dice, object Hausdorff distance.

Source: Sirinukunwattana et al., Gland segmentation in colon histology images: the GlaS challenge
contest, Medical Image Analysis 35 (2017); glas.grand-challenge.org/Evaluation. An object's
partner is the object of the other side that covers most of it, of equals the one with the lowest
id. All three are over the objects of all images together, so an image is one row of sums and the
rows of a set add up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from model.errors import ModelError
from model.metrics import ratio

GLAS_MPP = 0.62005  # the challenge gives distances in pixels of this size, um
MATCHED_SHARE = 0.5
Box = tuple[slice, slice]


@dataclass(frozen=True)
class _Objects:
    """One side's objects: labels int [H, W] 0..n; per object area [n] and bounding box."""

    labels: np.ndarray
    areas: np.ndarray
    boxes: list[Box]


def object_sums(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return one image's row, float64 [9], for `object_scores`.

    truth, found: int [H, W], an id per object, 0 for none. The row is true positives, false
    positives, false negatives; then for the found objects their area, area x Dice and area x
    Hausdorff distance (pixels) to their partners, and the same for the true objects.

    Raises:
        ModelError: the shapes differ.
    """
    if truth.shape != found.shape:
        raise ModelError(f"true objects are on {truth.shape}, found ones on {found.shape} pixels")
    real, seen = _objects(truth), _objects(found)
    overlap = _overlap(real, seen)
    distances = _hausdorff(real, seen, overlap)
    return np.array(
        [
            *_detections(real, overlap),
            *_weighted(seen, real, overlap.T, distances.T),
            *_weighted(real, seen, overlap, distances),
        ]
    )


def object_scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores of sums [..., 9] of rows: object_f1, object_dice, object_hausdorff [...].

    Distances are in pixels. NaN where neither side has an object. Where only one has, F1 and
    Dice are 0 and the distance is of that side alone.
    """
    tp, fp, fn, seen_area, seen_dice, seen_far, real_area, real_dice, real_far = np.moveaxis(
        sums, -1, 0
    )
    far = np.stack([ratio(seen_far, seen_area), ratio(real_far, real_area)])
    sides = (~np.isnan(far)).sum(axis=0)
    dice = np.nan_to_num(ratio(seen_dice, seen_area)) + np.nan_to_num(ratio(real_dice, real_area))
    return {
        "object_f1": ratio(2 * tp, 2 * tp + fp + fn),
        "object_dice": np.where(sides > 0, dice / 2, np.nan),
        "object_hausdorff": ratio(np.nansum(far, axis=0), sides),
    }


def _objects(ids: np.ndarray) -> _Objects:
    values, labels = np.unique(ids, return_inverse=True)
    labels = labels.reshape(ids.shape)
    if values[:1] != 0:  # no background at all
        labels = labels + 1
    areas = np.bincount(labels.ravel(), minlength=1)[1:]
    return _Objects(labels, areas, ndimage.find_objects(labels))


def _overlap(real: _Objects, seen: _Objects) -> np.ndarray:
    """Return shared pixels int64 [true objects, found objects]."""
    down, across = len(real.areas) + 1, len(seen.areas) + 1
    pairs = real.labels.ravel() * across + seen.labels.ravel()
    return np.bincount(pairs, minlength=down * across).reshape(down, across)[1:, 1:]


def _detections(real: _Objects, overlap: np.ndarray) -> tuple[int, int, int]:
    """Return true positives, false positives and false negatives.

    A found object counts as true if it covers at least half of its partner (so the published
    text; ports of the challenge's code ask for more), a true one as missed if no object that has
    it as partner does.
    """
    reals, seens = overlap.shape
    if reals == 0 or seens == 0:
        return 0, seens, reals
    partner = overlap.argmax(axis=0)
    covered = overlap[partner, np.arange(seens)]
    hit = (covered > 0) & (covered >= MATCHED_SHARE * real.areas[partner])
    return int(hit.sum()), int((~hit).sum()), reals - len(np.unique(partner[hit]))


def _weighted(
    own: _Objects, other: _Objects, overlap: np.ndarray, distances: np.ndarray
) -> tuple[float, float, float]:
    """Return one side's area, area x Dice, area x distance; overlap and distances [own, other]."""
    if len(own.areas) == 0:
        return 0.0, 0.0, 0.0
    area = float(own.areas.sum())
    if len(other.areas) == 0:
        # The challenge's distance would be infinite and hide all other images. Ours is the
        # longest there can be.
        return area, 0.0, area * float(np.hypot(*own.labels.shape))
    each, partner = np.arange(len(own.areas)), overlap.argmax(axis=1)
    shared = overlap[each, partner]
    dice = 2 * shared / (own.areas + other.areas[partner])  # 0 without an overlap
    nearest = distances.min(axis=1)
    far = np.where(shared > 0, distances[each, partner], nearest)
    return area, float(own.areas @ dice), float(own.areas @ far)


def _hausdorff(real: _Objects, seen: _Objects, overlap: np.ndarray) -> np.ndarray:
    """Return distances [true, found] of all pairs that are asked for, infinity elsewhere.

    Asked for are partners, and for an object that overlaps none all of the other side.
    """
    asked = np.zeros(overlap.shape, bool)
    if overlap.size:
        asked[np.arange(len(overlap)), overlap.argmax(axis=1)] = True
        asked[overlap.argmax(axis=0), np.arange(overlap.shape[1])] = True
        asked[overlap.sum(axis=1) == 0, :] = True
        asked[:, overlap.sum(axis=0) == 0] = True
    both = np.maximum(_farthest(real, seen, asked), _farthest(seen, real, asked.T).T)
    return np.where(asked, both, np.inf)


def _farthest(source: _Objects, target: _Objects, asked: np.ndarray) -> np.ndarray:
    """Return for asked pairs [source, target] how far source's farthest pixel is from target."""
    far = np.zeros(asked.shape)
    wanted: dict[int, list[int]] = defaultdict(list)
    for one, other in zip(*np.nonzero(asked), strict=True):
        wanted[int(other)].append(int(one))
    for other, ones in wanted.items():
        # The window holds all pixels that matter, so distances in it are exact.
        window = _around([target.boxes[other], *(source.boxes[one] for one in ones)])
        distance = ndimage.distance_transform_edt(target.labels[window] != other + 1)
        for one in ones:
            own = source.labels[source.boxes[one]] == one + 1
            far[one, other] = distance[_within(window, source.boxes[one])][own].max()
    return far


def _within(window: Box, box: Box) -> Box:
    """Return a box of the image as a box of the window that holds it."""
    rows, cols = (
        slice(inner.start - outer.start, inner.stop - outer.start)
        for outer, inner in zip(window, box, strict=True)
    )
    return rows, cols


def _around(boxes: Sequence[Box]) -> Box:
    """Return the smallest box around boxes."""
    rows, cols = zip(*boxes, strict=True)
    return (
        slice(min(s.start for s in rows), max(s.stop for s in rows)),
        slice(min(s.start for s in cols), max(s.stop for s in cols)),
    )
