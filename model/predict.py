"""Class probabilities of whole labelled images, blended from overlapping patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import interpolate

from model.cache import FeatureCache, FeatureFile, PatchPlan
from model.feature_set import FeatureSet
from model.features import FeatureExtractor
from model.head import Head
from model.labels import LabelledImage, LabelledPixels


class Blend:
    """Probabilities of overlapping square patches, averaged into those of one image.

    A patch weighs most in its middle and next to nothing at its rim.
    """

    def __init__(self, classes: int, height: int, width: int) -> None:
        self._scores = np.zeros((classes, height, width), np.float32)
        self._weight = np.zeros((height, width), np.float32)

    def add(self, probabilities: np.ndarray, x: int, y: int) -> None:
        """Take in float32 [K, h, w] whose corner lies at (x, y); what juts out is left out."""
        window = _window(probabilities.shape[-1])
        rows, columns = self._weight[y:, x:].shape
        inside = np.s_[: min(rows, len(window)), : min(columns, len(window))]
        window = window[inside]
        box = np.s_[y : y + window.shape[0], x : x + window.shape[1]]
        self._scores[:, *box] += window * probabilities[:, *inside]
        self._weight[box] += window

    def probabilities(self) -> np.ndarray:
        """Return float32 [K, H, W], adding to 1 over K.

        The few rows and columns at the far edges that no patch reached are as their neighbours.
        """
        rows, columns = (np.flatnonzero(self._weight.any(axis=axis)) for axis in (1, 0))
        scores = self._scores / np.maximum(self._weight, 1e-12)
        reached = scores[:, : rows[-1] + 1, : columns[-1] + 1]
        missing = [0, *(n - r for n, r in zip(scores.shape[1:], reached.shape[1:], strict=True))]
        return np.pad(reached, [(0, n) for n in missing], mode="edge")


def _window(side: int) -> np.ndarray:
    hann = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    return np.maximum(np.outer(hann, hann), 1e-6).astype(np.float32)


@dataclass(frozen=True)
class HeadPredictor:
    """A head as a predictor of whole images, for measuring.

    backbone: digest of the model, for the cache. maps: numbers of the feature maps in use, None
    for all.
    """

    extractor: FeatureExtractor
    backbone: str
    head: Head
    plan: PatchPlan
    cache: FeatureCache
    maps: tuple[int, ...] | None = None

    def __call__(self, pixels: np.ndarray, origin_m: tuple[int, int]) -> np.ndarray:
        """Return float32 [K, H, W] for uint8 [H, W, 3] at the model's resolution."""
        whole = LabelledPixels(pixels, np.zeros(pixels.shape[:2], np.uint8))
        image = LabelledImage("", "", lambda: whole, origin_m)
        file = self.cache.features_of(self.extractor, self.backbone, image, self.plan)[0]
        cells = self._cells(file, pixels.shape[:2], origin_m)
        size = pixels.shape[:2]
        scaled = interpolate(torch.from_numpy(cells)[None], size=size, mode="bilinear")
        return scaled[0].numpy()

    @torch.inference_mode()
    def _cells(
        self, file: FeatureFile, size: tuple[int, int], origin_m: tuple[int, int]
    ) -> np.ndarray:
        """Return the blended probabilities of score cells, float32 [K, H/cell, W/cell]."""
        patches = FeatureSet([file], self.maps)
        classes = self.head.classify.out_channels
        cell_m = 1
        blend: Blend | None = None
        for index, (x, y) in enumerate(file.origins_m):
            maps, codes = patches.batch([index])
            answer = self.head(maps).softmax(dim=1)[0].numpy()
            if blend is None:
                cell_m = codes.shape[-1] // answer.shape[-1]
                blend = Blend(classes, -(-size[0] // cell_m), -(-size[1] // cell_m))
            blend.add(answer, (x - origin_m[0]) // cell_m, (y - origin_m[1]) // cell_m)
        if blend is None:
            raise ValueError("an image without patches")
        return blend.probabilities()
