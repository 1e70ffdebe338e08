"""The pixel stem: what edges, textures and stains say, beside the diffusion features.

An extension of ours, not of the paper: a small diffusion model is a weak extractor, and the first
layers of an image classifier cost little. `FeatureSpec.stem` holds its settings or None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, relu

from model.errors import ModelError

WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512)
HALVED_BEFORE = (2, 4, 7)
"""VGG16's layers up to conv4_3; before these, maps are halved by maximum."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class StemPlan:
    """How much of the network runs, on what, and which layers are features.

    shrink: model pixels per pixel that the network sees. layers: how many convolutions run.
    taps: those whose outputs are features, counted from 0.
    """

    shrink: int = 2
    layers: int = 8
    taps: tuple[int, ...] = (3, 6, 7)

    def __post_init__(self) -> None:
        ordered = list(self.taps) == sorted(set(self.taps))
        if not (self.shrink >= 1 and 1 <= self.layers <= len(WIDTHS) and self.taps and ordered):
            raise ModelError(f"a pixel stem cannot be made as {self}")
        if not 0 <= self.taps[0] <= self.taps[-1] < self.layers:
            raise ModelError(f"the stem's taps {self.taps} must be among its {self.layers} layers")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> StemPlan:
        """Return the plan that a card's settings describe.

        Raises:
            ModelError: they name something else.
        """
        try:
            return cls(**(dict(settings) | {"taps": tuple(settings["taps"])}))
        except (TypeError, KeyError) as error:
            raise ModelError(f"the card's stem {dict(settings)} is not one ({error})") from None


class Stem(nn.Module):
    """The first convolutions of VGG16 on shrunk pixels, as frozen features.

    Source: Simonyan and Zisserman 2015, configuration D.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, plan: StemPlan) -> None:
        super().__init__()
        self.plan = plan
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        inputs = (3, *WIDTHS)
        self.layers = nn.ModuleList(
            nn.Conv2d(inputs[i], WIDTHS[i], 3, padding=1) for i in range(plan.layers)
        )

    @property
    def channels(self) -> tuple[int, ...]:
        """Return how many channels each map has."""
        return tuple(WIDTHS[tap] for tap in self.plan.taps)

    def forward(self, tiles: Tensor) -> list[Tensor]:
        """Return the tapped layers' outputs, float [B, C_i, h_i, w_i], of uint8 [B, H, W, 3]."""
        x = avg_pool2d(tiles.permute(0, 3, 1, 2).float() / 255, self.plan.shrink)
        x = ((x - self.mean) / self.std).to(next(self.parameters()).dtype)
        maps = []
        for index, layer in enumerate(self.layers):
            x = relu(layer(max_pool2d(x, 2) if index in HALVED_BEFORE else x))
            if index in self.plan.taps:
                maps.append(x)
        return maps


def stem_of(settings: Mapping[str, Any] | None) -> Stem | None:
    """Return an empty stem as a card describes it, None where the card has none."""
    return None if settings is None else Stem(StemPlan.of(settings))
