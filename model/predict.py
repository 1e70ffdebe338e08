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
        """Return float32 [K, H, W] for uint8 [H, W, 3] at the model's resolution.

        The features are cached, but nothing holds them there: what is measured may be more than
        the cache may hold.
        """
        whole = LabelledPixels(pixels, np.zeros(pixels.shape[:2], np.uint8))
        image = LabelledImage("", "", lambda: whole, origin_m)
        file = self.cache.features_of(self.extractor, self.backbone, image, self.plan)[0]
        height, width = pixels.shape[:2]
        scaled = self._scores(file, (height, width), origin_m)[:, :height, :width]
        self.cache.release(file)
        return scaled

    @torch.inference_mode()
    def _scores(
        self, file: FeatureFile, size: tuple[int, int], origin_m: tuple[int, int]
    ) -> np.ndarray:
        """Return the blended probabilities, float32 [K, >= H, >= W]: of whole score cells."""
        patches = FeatureSet([file], self.maps)
        side_m = file.codes.shape[-1]
        cell_m, blend = side_m, Blend(self.head.classify.out_channels, 1, 1)
        for index, (x, y) in enumerate(file.origins_m):
            answer = self.head(patches.batch([index])[0]).softmax(dim=1)[0].numpy()
            if index == 0:  # only now is it known how wide a score cell is
                cell_m = side_m // answer.shape[-1]
                blend = Blend(len(answer), *(-(-n // cell_m) for n in size))
            blend.add(answer, (x - origin_m[0]) // cell_m, (y - origin_m[1]) // cell_m)
        cells = torch.from_numpy(blend.probabilities())[None]
        return interpolate(cells, scale_factor=float(cell_m), mode="bilinear")[0].numpy()
