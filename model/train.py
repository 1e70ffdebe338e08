"""Training of heads on frozen features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from model.features import FeatureExtractor
from model.head import Head
from model.pretrain import Progress

IGNORED = 255


@dataclass(frozen=True)
class LabelledTile:
    """One patch and its truth.

    pixels: uint8 [H, W, 3]. codes: uint8 [H, W], the class of each pixel or IGNORED.
    origin_m: (x, y), where the patch lies in the noise field.
    """

    pixels: np.ndarray
    codes: np.ndarray
    origin_m: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class HeadTraining:
    """Settings of a head's training; all are our choice."""

    steps: int = 600
    batch: int = 16
    learning_rate: float = 2e-3
    width: int = 48
    seed: int = 0


class CachedFeatures:
    """Features of labelled tiles, computed once, float16 in memory."""

    def __init__(self, extractor: FeatureExtractor, tiles: Sequence[LabelledTile]) -> None:
        self._blocks: list[Sequence[Tensor]] = []
        progress = Progress("features", len(tiles))
        with torch.inference_mode():
            for index, tile in enumerate(tiles):
                pixels = torch.from_numpy(tile.pixels)[None]
                features = extractor(pixels, [tile.origin_m])
                self._blocks.append([f[0].half() for f in features])
                progress.tell(index, 0.0)

    def save(self, path: Path) -> None:
        """Write the features to a file that `load` reads."""
        count = range(len(self._blocks[0]))
        save_file(
            {str(i): torch.stack([blocks[i] for blocks in self._blocks]) for i in count}, path
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the features in a file that `save` wrote."""
        stacked = load_file(path)
        features = cls.__new__(cls)
        features._blocks = list(zip(*(stacked[str(i)] for i in range(len(stacked))), strict=True))
        return features

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(block.shape[0] for block in self._blocks[0])

    def batch(self, indices: Sequence[int]) -> list[Tensor]:
        """Return float32 [B, C_i, h_i, w_i] per block."""
        picked = [self._blocks[i] for i in indices]
        return [torch.stack(maps).float() for maps in zip(*picked, strict=True)]


def soft_targets(codes: Tensor, classes: int, cell_m: int) -> tuple[Tensor, Tensor]:
    """Return class shares [B, K, h, w] of each score cell and its labelled share [B, h, w].

    `codes` is uint8 [B, H, W]. Shares add to 1 where anything in the cell is labelled.
    """
    known = codes != IGNORED
    onehot = F.one_hot(codes.long().masked_fill(~known, 0), classes).permute(0, 3, 1, 2).float()
    shares = F.avg_pool2d(onehot * known[:, None], cell_m)
    weight = shares.sum(dim=1)
    return shares / weight[:, None].clamp_min(1e-6), weight


def segmentation_loss(
    logits: Tensor, shares: Tensor, weight: Tensor, class_weights: Tensor
) -> Tensor:
    """Return cross-entropy plus soft Dice; cells weigh as much as is labelled in them."""
    per_cell = -(shares * logits.log_softmax(dim=1) * class_weights.view(1, -1, 1, 1)).sum(dim=1)
    entropy = (per_cell * weight).sum() / weight.sum().clamp_min(1.0)
    probabilities = logits.softmax(dim=1) * weight[:, None]
    truth = shares * weight[:, None]
    both = (probabilities * truth).sum(dim=(0, 2, 3))
    either = (probabilities + truth).sum(dim=(0, 2, 3))
    present = truth.sum(dim=(0, 2, 3)) > 0
    dice = (2 * both[present] + 1) / (either[present] + 1)
    return entropy + 1 - dice.mean()


def train_head(
    features: CachedFeatures,
    codes: Sequence[np.ndarray],
    classes: int,
    settings: HeadTraining,
) -> Head:
    """Return a head trained on cached features and the tiles' codes, uint8 [H, W] each."""
    torch.manual_seed(settings.seed)
    head = Head(features.channels, classes, settings.width).train()
    optimiser = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.steps, pct_start=0.1
    )
    weights = class_weights(codes, classes)
    progress = Progress("head", settings.steps)
    picks = _picks(len(features), settings)
    for step, indices in zip(range(settings.steps), picks, strict=False):
        batch = features.batch(indices)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = head(batch).float()
        truth = torch.from_numpy(np.stack([codes[i] for i in indices]))
        shares, weight = soft_targets(truth, classes, truth.shape[-1] // logits.shape[-1])
        loss = segmentation_loss(logits, shares, weight, weights)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        rate.step()
        progress.tell(step, float(loss.detach()))
    return head.eval().requires_grad_(False)


def class_weights(codes: Sequence[np.ndarray], classes: int) -> Tensor:
    """Return weights inverse to the root of each class's share, mean 1 over the classes seen."""
    counts = np.zeros(256)
    for plane in codes:
        counts += np.bincount(plane.ravel(), minlength=256)
    counts = counts[:classes]
    weights = np.where(counts > 0, 1 / np.sqrt(np.maximum(counts, 1)), 0)
    return torch.from_numpy(weights / weights[counts > 0].mean()).float()


def _picks(count: int, settings: HeadTraining) -> Iterator[list[int]]:
    rng = np.random.default_rng(settings.seed)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - settings.batch + 1, settings.batch):
            yield order[start : start + settings.batch].tolist()
        if count < settings.batch:
            yield order.tolist()
