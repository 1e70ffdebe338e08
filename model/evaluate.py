"""How well a predictor does on labelled images: counts per image, then scores with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from model.card import HeadClass
from model.errors import ModelError
from model.gland_metrics import GLAS_MPP, object_scores, object_sums
from model.instances import GlandReading, gland_mask, known_glands
from model.labels import IGNORED, LabelledImage, LabelledPixels, LabelSet
from model.metrics import (
    Interval,
    Resampling,
    bootstrap,
    confusion,
    mean_over_images,
    pixel_scores,
    rows_of_means,
)

# Class probabilities float [K, H, W] of pixels uint8 [H, W, 3] and their corner (x, y) in the
# noise field, model pixels.
Predictor = Callable[[np.ndarray, tuple[int, int]], np.ndarray]


@dataclass(frozen=True)
class GlandCounts:
    """What was counted of glands, per image.

    pixels: int64 [N, 2, 2], background and gland (border included), truth down. objects:
    float64 [N, 9], rows of `gland_metrics.object_sums`, zeros for images without instances.
    mpp: um per pixel.
    """

    pixels: np.ndarray
    objects: np.ndarray
    mpp: float


@dataclass(frozen=True)
class Evaluation:
    """What was counted on each image; every score follows from it.

    names, groups: of the N images. confusions: int64 [N, K, K], class in truth down. glands:
    None where none were asked for.
    """

    classes: tuple[HeadClass, ...]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    confusions: np.ndarray
    glands: GlandCounts | None = None


@dataclass(frozen=True)
class Summary:
    """Scores over all images with their intervals.

    per_class: arrays [K], of dice, iou, precision, recall (pixels of all images together) and
    image_dice (the mean over images of each image's Dice). overall: accuracy, mean_dice,
    mean_iou. glands: gland_dice, gland_iou (all pixels together), gland_image_dice (mean over
    images), object_f1, object_dice, object_hausdorff_um, object_hausdorff_glas_px (in the
    challenge's pixels of 0.62005 um); empty where none were asked for.
    """

    per_class: Mapping[str, Interval]
    overall: Mapping[str, Interval]
    glands: Mapping[str, Interval]


@dataclass(frozen=True)
class _Counted:
    confusion: np.ndarray
    gland_pixels: np.ndarray
    gland_objects: np.ndarray


def evaluate(
    predict: Predictor, labelled: LabelSet, glands: GlandReading | None = None
) -> Evaluation:
    """Return what a predictor gets right and wrong on labelled images.

    glands: how glands are read from the probabilities; None leaves the gland measures out.

    Raises:
        ModelError: no image has labels, or an image, its truth and its prediction disagree in
            shape or classes; the message names the image.
    """
    classes = len(labelled.classes)
    if glands and max(glands.channels) >= classes:
        raise ModelError(
            f"glands are class {max(glands.channels)}, but there are {classes} classes"
        )
    counted = [_count(predict, image, classes, glands) for image in labelled.images]
    if not any(one.confusion.any() for one in counted):
        raise ModelError(f"{labelled.description}: no image has a labelled pixel to measure on")
    return Evaluation(
        classes=labelled.classes,
        names=tuple(image.name for image in labelled.images),
        groups=tuple(image.group for image in labelled.images),
        confusions=np.stack([one.confusion for one in counted]),
        glands=_gland_counts(counted, glands) if glands else None,
    )


def predict_image(
    predict: Predictor, image: LabelledImage, pixels: np.ndarray, classes: int
) -> np.ndarray:
    """Return float [K, H, W] of one image.

    Raises:
        ModelError: the predictor gave another shape; the message names the image.
    """
    probabilities = predict(pixels, image.origin_m)
    wanted = (classes, *pixels.shape[:2])
    if probabilities.shape != wanted:
        raise ModelError(
            f"{image.name}: probabilities are {probabilities.shape}, not {wanted} (classes,"
            " height, width); use a head of these classes"
        )
    return probabilities


def image_scores(evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Return scores of each image alone, arrays [N] or, per class, [N, K]; NaN where undefined."""
    scores = dict(pixel_scores(evaluation.confusions))
    if evaluation.glands:
        scores["gland_dice"] = pixel_scores(evaluation.glands.pixels)["dice"][:, 1]
        scores |= _in_um(object_scores(evaluation.glands.objects), evaluation.glands.mpp)
    return scores


def worst_images(evaluation: Evaluation, count: int) -> list[int]:
    """Return the indices of the `count` worst images, worst first.

    By gland Dice where glands were measured, else by mean Dice. Images without a score are none
    of them.
    """
    scores = image_scores(evaluation)
    key = scores["gland_dice"] if evaluation.glands else scores["mean_dice"]
    order = np.argsort(key, kind="stable")  # NaN comes last
    return [int(i) for i in order[:count] if not math.isnan(key[i])]


def summarise(evaluation: Evaluation, how: Resampling | None = None) -> Summary:
    """Return the scores over all images with bootstrap intervals over images."""
    how = how or Resampling()
    pooled = bootstrap(evaluation.confusions, pixel_scores, how)
    per_class = {name: pooled[name] for name in ("dice", "iou", "precision", "recall")}
    overall = {name: pooled[name] for name in ("accuracy", "mean_dice", "mean_iou")}
    per_class["image_dice"] = _image_mean(pixel_scores(evaluation.confusions)["dice"], how)
    glands = _gland_summary(evaluation.glands, how) if evaluation.glands else {}
    return Summary(per_class, overall, glands)


def _count(
    predict: Predictor, image: LabelledImage, classes: int, glands: GlandReading | None
) -> _Counted:
    sample = image.read()
    if sample.pixels.shape[:2] != sample.codes.shape:
        raise ModelError(
            f"{image.name}: the image is {sample.pixels.shape[:2]} and its mask"
            f" {sample.codes.shape} pixels; they must be alike"
        )
    probabilities = predict_image(predict, image, sample.pixels, classes)
    try:
        counts = confusion(sample.codes, probabilities.argmax(axis=0).astype(np.uint8), classes)
    except ModelError as error:
        raise ModelError(f"{image.name}: {error}") from error
    if glands is None:
        return _Counted(counts, np.zeros((2, 2), np.int64), np.zeros(9))
    return _Counted(counts, *_count_glands(sample, probabilities, glands))


def _count_glands(
    sample: LabelledPixels, probabilities: np.ndarray, reading: GlandReading
) -> tuple[np.ndarray, np.ndarray]:
    known = sample.codes != IGNORED
    truth = np.isin(sample.codes, reading.channels).astype(np.uint8)
    found = gland_mask(probabilities, reading).astype(np.uint8)
    pixels = confusion(np.where(known, truth, IGNORED).astype(np.uint8), found, 2)
    if sample.instances is None:
        return pixels, np.zeros(9)
    found_glands = known_glands(probabilities, known, reading)
    return pixels, object_sums(sample.instances * known, found_glands)


def _gland_counts(counted: list[_Counted], reading: GlandReading) -> GlandCounts:
    return GlandCounts(
        pixels=np.stack([one.gland_pixels for one in counted]),
        objects=np.stack([one.gland_objects for one in counted]),
        mpp=reading.mpp,
    )


def _gland_summary(glands: GlandCounts, how: Resampling) -> dict[str, Interval]:
    pixels = bootstrap(glands.pixels, pixel_scores, how)
    summary = {f"gland_{name}": _of_class(pixels[name], 1) for name in ("dice", "iou")}
    summary["gland_image_dice"] = _image_mean(pixel_scores(glands.pixels)["dice"][:, 1], how)
    objects = bootstrap(glands.objects, lambda rows: _in_um(object_scores(rows), glands.mpp), how)
    return summary | objects


def _in_um(scores: Mapping[str, np.ndarray], mpp: float) -> dict[str, np.ndarray]:
    """Return object scores with the distance in um and in the challenge's pixels."""
    rest = {name: value for name, value in scores.items() if name != "object_hausdorff"}
    far_um = scores["object_hausdorff"] * mpp
    return rest | {"object_hausdorff_um": far_um, "object_hausdorff_glas_px": far_um / GLAS_MPP}


def _image_mean(values: np.ndarray, how: Resampling) -> Interval:
    return bootstrap(rows_of_means(values), mean_over_images, how)["mean"]


def _of_class(interval: Interval, code: int) -> Interval:
    return Interval(interval.value[code], interval.low[code], interval.high[code])
