"""Cached features of many images as one set to draw batches from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.cache import FeatureCache, FeatureFile, PatchPlan, Tell, silent
from model.errors import ModelError
from model.features import FeatureExtractor
from model.labels import LabelledImage


@dataclass(frozen=True)
class ImageFeatures:
    """What computes and caches the features of images; digest: of all else that they depend on."""

    extractor: FeatureExtractor
    digest: str
    cache: FeatureCache
    tell: Tell = silent

    def files(
        self, images: Sequence[LabelledImage], plan: PatchPlan, stage: str = "features"
    ) -> list[FeatureFile]:
        """Return the files of all images, from the cache as far as they are there."""
        found: list[FeatureFile] = []
        for done, image in enumerate(images, start=1):
            found += self.cache.features_of(self.extractor, self.digest, image, plan)
            self.tell(stage, done, len(images))
        return found


class FeatureSet:
    """Patches of many files, numbered through.

    `maps` are the numbers of the feature maps in use, all of them by default.

    Raises:
        ModelError: there is no file.
    """

    def __init__(self, files: Sequence[FeatureFile], maps: Sequence[int] | None = None) -> None:
        if not files:
            raise ModelError(
                "no patch has a label: all that is labelled to train on, or of what is held out,"
                " lies in the last pixels of its image; label more of the image's inside"
            )
        self.files = list(files)
        self.maps = list(range(len(files[0].channels)) if maps is None else maps)
        self._places = [(f, i) for f in self.files for i in range(len(f))]

    def __len__(self) -> int:
        return len(self._places)

    @property
    def name(self) -> str:
        """Return the names of the files and which maps are in use."""
        return f"{[f.name for f in self.files]} {self.maps}"

    @property
    def channels(self) -> tuple[int, ...]:
        """Return how many channels each map in use has."""
        return tuple(self.files[0].channels[i] for i in self.maps)

    @property
    def planes(self) -> list[np.ndarray]:
        """Return each file's codes, uint8 [N, S, S]."""
        return [f.codes.numpy() for f in self.files]

    def batch(
        self, indices: Sequence[int], rng: np.random.Generator | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Return float32 [B, C_i, h_i, w_i] per map and uint8 codes [B, S, S].

        With `rng`, each patch is turned and mirrored in one of the eight ways a square can be.
        """
        taken = [self._turned(i, int(rng.integers(8)) if rng else 0) for i in indices]
        *maps, codes = [torch.stack(planes) for planes in zip(*taken, strict=True)]
        return [m.contiguous(memory_format=torch.channels_last) for m in maps], codes

    def _turned(self, index: int, way: int) -> list[Tensor]:
        file, place = self._places[index]
        planes = [*file.features(place, self.maps), file.codes[place]]
        return [turned(plane, way) for plane in planes]


def turned(plane: Tensor, way: int) -> Tensor:
    """Return [..., H, W] turned and mirrored in one of eight ways, 0 being as it is."""
    plane = torch.rot90(plane, way % 4, (-2, -1))
    return plane.flip(-1) if way >= 4 else plane
