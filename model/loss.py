"""What a head is told of its errors: cross-entropy and Dice over what is labelled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.labels import IGNORED


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


def class_weights(codes: Sequence[np.ndarray], classes: int) -> Tensor:
    """Return weights inverse to the root of each class's share, mean 1 over the classes seen."""
    counts = np.zeros(256)
    for plane in codes:
        counts += np.bincount(plane.ravel(), minlength=256)
    counts = counts[:classes]
    weights = np.where(counts > 0, 1 / np.sqrt(np.maximum(counts, 1)), 0)
    return torch.from_numpy(weights / weights[counts > 0].mean()).float()
