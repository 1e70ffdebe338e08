"""Pictures of predictions over the tissue: where truth and prediction part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries

from model.card import HeadClass
from model.evaluate import Evaluation, Predictor, image_scores, predict_image, worst_images
from model.instances import GlandReading, known_glands
from model.labels import IGNORED, LabelledPixels, LabelSet

TRUTH, FOUND = (255, 225, 0), (0, 235, 255)  # neither is a colour of H&E
CAPTION_PX = 22
TINT = 0.4


def draw_worst(
    folder: Path,
    evaluation: Evaluation,
    predict: Predictor,
    labelled: LabelSet,
    count: int = 5,
    glands: GlandReading | None = None,
) -> list[Path]:
    """Write a picture of each of the worst images, worst first, and return their paths.

    The images are read and predicted anew, so that an evaluation needs to hold none of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    scores = image_scores(evaluation)
    kind = "gland_dice" if evaluation.glands else "mean_dice"
    for rank, at in enumerate(worst_images(evaluation, count), start=1):
        image = labelled.images[at]
        sample = image.read()
        probabilities = predict_image(predict, image, sample.pixels, len(labelled.classes))
        safe_name = re.sub(r"[^\w.-]+", "_", image.name)
        path = folder / f"worst_{rank:02d}_{safe_name}.png"
        caption = f"{image.name}   {kind.replace('_', ' ')} {scores[kind][at]:.3f}"
        draw_overlay(path, sample, probabilities, labelled.classes, caption, glands)
        paths.append(path)
    return paths


def draw_overlay(
    path: Path,
    sample: LabelledPixels,
    probabilities: np.ndarray,
    classes: Sequence[HeadClass],
    caption: str,
    glands: GlandReading | None = None,
) -> None:
    """Write one image twice, side by side: with both outlines, and with the predicted classes.

    probabilities: float [K, H, W]. Outlines are of glands where the image has instances and
    `glands` is given, else of classes. What is IGNORED is greyed in both.
    """
    known = sample.codes != IGNORED
    codes = np.where(known, probabilities.argmax(axis=0), IGNORED)
    if glands is not None and sample.instances is not None:
        truth, found = sample.instances * known, known_glands(probabilities, known, glands)
    else:
        truth, found = sample.codes, codes
    plain = np.where(known[..., None], sample.pixels, _grey(sample.pixels))
    outlined = plain.copy()
    outlined[_outline(truth)] = TRUTH
    outlined[_outline(found)] = FOUND
    tinted = _tinted(plain, codes, classes)
    gap = np.full((len(plain), 6, 3), 255, np.uint8)
    _captioned(np.concatenate([outlined, gap, tinted], axis=1), caption).save(path)


def _outline(labels: np.ndarray) -> np.ndarray:
    """Return bool [H, W], the edges between labels, about two pixels wide."""
    return find_boundaries(labels, mode="thick")


def _grey(pixels: np.ndarray) -> np.ndarray:
    light = pixels.mean(axis=-1, keepdims=True) * 0.5 + 110
    return np.broadcast_to(light, pixels.shape).astype(np.uint8)


def _tinted(pixels: np.ndarray, codes: np.ndarray, classes: Sequence[HeadClass]) -> np.ndarray:
    """Return pixels under the colours of the classes that make objects."""
    tinted = pixels.astype(np.float32)
    for code, one in enumerate(classes):
        if one.detections:
            at = codes == code
            tinted[at] = (1 - TINT) * tinted[at] + TINT * np.array(one.color)
    return tinted.astype(np.uint8)


def _captioned(picture: np.ndarray, caption: str) -> Image.Image:
    height, width, _ = picture.shape
    page = Image.new("RGB", (width, height + CAPTION_PX), "white")
    page.paste(Image.fromarray(picture), (0, CAPTION_PX))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    x = 4.0
    for text, colour in ((caption, None), ("truth", TRUTH), ("prediction", FOUND)):
        if colour:
            pen.rectangle((x, 5, x + 16, 16), fill=colour, outline="black")
            x += 22
        pen.text((x, 2), text, fill="black", font=font)
        x += pen.textlength(text, font=font) + 18
    return page
