"""Class probabilities of whole labelled images, blended from overlapping patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from model.cache import FeatureFile
from model.head import Head


class Blend:
    """Probabilities of overlapping square patches, averaged into those of one image.

    A patch weighs most in its middle and nothing in its rim, but for what no other patch covers.
    """

    def __init__(self, classes: int, height: int, width: int) -> None:
        self._scores = np.zeros((classes, height, width), np.float32)
        self._weight = np.zeros((height, width), np.float32)

    def add(self, probabilities: np.ndarray, x: int, y: int) -> None:
        """Take in float32 [K, h, w] whose corner lies at (x, y); what juts out is left out."""
        rows, columns = self._weight[y:, x:].shape
        probabilities = probabilities[:, :rows, :columns]
        _, height, width = probabilities.shape
        window = _window(self._side(probabilities))[:height, :width]
        box = np.s_[y : y + height, x : x + width]
        self._scores[:, *box] += window * probabilities
        self._weight[box] += window

    def probabilities(self) -> np.ndarray:
        """Return float32 [K, H, W], adding to 1 over K; every place must have been covered."""
        return self._scores / np.maximum(self._weight, 1e-12)

    def _side(self, probabilities: np.ndarray) -> int:
        return max(probabilities.shape[1:])


def _window(side: int) -> np.ndarray:
    hann = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    return np.maximum(np.outer(hann, hann), 1e-6).astype(np.float32)


@torch.inference_mode()
def probabilities_of(
    head: Head,
    file: FeatureFile,
    shape: tuple[int, int],
    origin_m: tuple[int, int] = (0, 0),
    maps: Sequence[int] | None = None,
    batch: int = 8,
) -> np.ndarray:
    """Return a head's probabilities of an image, float32 [K, H/cell, W/cell].

    `shape` is the image's height and width in model pixels, `origin_m` its place.
    """
    blend: Blend | None = None
    for start in range(0, len(file), batch):
        indices = range(start, min(start + batch, len(file)))
        taken = [file.features(i, maps) for i in indices]
        inputs = [torch.stack(planes) for planes in zip(*taken, strict=True)]
        answers = head(inputs).softmax(dim=1).numpy()
        cell_m = file.codes.shape[-1] // answers.shape[-1]
        if blend is None:
            blend = Blend(answers.shape[1], -(-shape[0] // cell_m), -(-shape[1] // cell_m))
        for index, answer in zip(indices, answers, strict=True):
            x, y = ((p - o) // cell_m for p, o in zip(file.origins_m[index], origin_m, strict=True))
            blend.add(answer, x, y)
    if blend is None:
        raise ValueError("a file of features without patches")
    return blend.probabilities()
