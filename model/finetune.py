"""Fine-tuning: the U-Net's decoder learns with the head. The paper keeps it frozen; ours to try."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from model.cache import PatchPlan, Tell, silent
from model.errors import DivergedError, ModelError
from model.feature_set import turned
from model.features import FeatureExtractor
from model.head import Head
from model.labels import LabelledImage
from model.lessons import Along, HeadTraining, Lessons, Trained
from model.patches import Patch, patches_of
from model.train import train_head

DECODER_RATE = 1e-4
"""Highest learning rate of the U-Net while fine-tuning."""
SHARE_OF_STEPS = 0.25
"""Fine-tuning takes this share of the steps that the head alone took: each is many times dearer."""


class LivePatches:
    """Patches whose features are computed when a batch is drawn, so that a U-Net can learn.

    They are held in memory, 0.25 MB each at 256 px.
    """

    def __init__(self, extractor: FeatureExtractor, patches: Sequence[Patch]) -> None:
        self._extractor, self._patches = extractor, list(patches)

    @property
    def name(self) -> str:
        """Return the places of the patches."""
        return repr([p.origin_m for p in self._patches])

    @property
    def channels(self) -> tuple[int, ...]:
        """Return how many channels each map has."""
        return self._extractor.channels

    @property
    def planes(self) -> list[np.ndarray]:
        """Return the codes of all patches."""
        return [p.codes for p in self._patches]

    def __len__(self) -> int:
        return len(self._patches)

    def batch(
        self, indices: Sequence[int], rng: np.random.Generator | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Return features of patches, float [B, C_i, h_i, w_i] per map, and codes uint8."""
        some = [self._patches[i] for i in indices]
        ways = [int(rng.integers(8)) if rng else 0 for _ in some]
        pixels = [
            turned(torch.from_numpy(p.pixels).permute(2, 0, 1), way)
            for p, way in zip(some, ways, strict=True)
        ]
        codes = [turned(torch.from_numpy(p.codes), way) for p, way in zip(some, ways, strict=True)]
        tiles = torch.stack(pixels).permute(0, 2, 3, 1)
        device = next(self._extractor.parameters()).device
        maps = self._extractor(tiles.to(device), [p.origin_m for p in some])
        return [m.float().cpu() for m in maps], torch.stack(codes)


def live_patches(
    extractor: FeatureExtractor, images: Sequence[LabelledImage], plan: PatchPlan
) -> LivePatches:
    """Return the patches of images, read into memory."""
    patches = [
        patch
        for image in images
        for patch in patches_of(
            image.read(), image.origin_m, plan.side_m, plan.stride_m, plan.margin_m
        )
    ]
    return LivePatches(extractor, patches)


def finetune(
    extractor: FeatureExtractor,
    head: Head,
    lessons: Lessons,
    settings: HeadTraining,
    tell: Tell = silent,
) -> Trained:
    """Return the head after the U-Net's decoder has learned with it, from where both stand.

    The U-Net of the extractor and the head are changed in place. `lessons` are of LivePatches of
    the same extractor.

    Raises:
        ModelError: no block of the U-Net is in use, or nothing could be learned.
    """
    check_decoder(extractor)
    decoder = extractor.backbone.unet.up_blocks.requires_grad_(True)
    steps = max(settings.epoch_steps, round(settings.steps * SHARE_OF_STEPS))
    shorter = replace(settings, steps=steps, learning_rate=settings.learning_rate / 4)
    try:
        return train_head(lessons, shorter, None, tell, Along(decoder, head, DECODER_RATE))
    finally:
        decoder.requires_grad_(False)


def check_decoder(extractor: FeatureExtractor) -> None:
    """Refuse features that no decoder makes.

    Raises:
        ModelError: no block of the U-Net is in use.
    """
    if not extractor.spec.up_blocks:
        raise ModelError("the features use no block of the U-Net, so there is nothing to fine-tune")


def finetuned_or_frozen(
    extractor: FeatureExtractor,
    frozen: Trained,
    lessons: Lessons,
    settings: HeadTraining,
    tell: Tell = silent,
) -> tuple[Trained, bool]:
    """Return the better on what is held out: fine-tuned, or frozen as before; and whether tuned.

    The U-Net of the extractor is the one that belongs to the head returned.
    """
    unet = extractor.backbone.unet
    before = copy.deepcopy(unet.state_dict())
    head = copy.deepcopy(frozen.head)
    try:
        tuned = finetune(extractor, head, lessons, settings, tell)
        scores = f"held-out mean Dice {tuned.best_dice:.3f}, frozen {frozen.best_dice:.3f}"
    except DivergedError as error:
        tuned, scores = frozen, str(error)
    if tuned.best_dice > frozen.best_dice:
        return replace(tuned, note=f"fine-tuning was better: {scores}"), True
    unet.load_state_dict(before)
    note = f"fine-tuning was no better, so the frozen U-Net and its head are kept: {scores}"
    return replace(frozen, note=note), False


def start_afresh(unet: nn.Module, seed: int) -> None:
    """Give every layer of a U-Net random weights, to compare: what did diffusion teach it?"""
    torch.manual_seed(seed)
    for module in unet.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
