"""The self-supervised encoder and what makes its embedding a condition of the U-Net."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import ViTModel


class Encoder(nn.Module):
    """A vision transformer; its embedding is the class token after the last norm.

    Pixels in -1..1 are what mean = std = 0.5 gives. Position embeddings are interpolated
    bicubically to the patch at hand. Source: Chen et al. 2022 (HIPT), ViT-256.
    """

    def __init__(self, network: ViTModel) -> None:
        super().__init__()
        self.network = network

    @property
    def width(self) -> int:
        return int(self.network.config.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return embeddings float [B, D], L2-normalised, of pixels float [B, 3, H, W] in -1..1."""
        tokens = self.network(pixels, interpolate_pos_encoding=True).last_hidden_state
        return normalize(tokens[:, 0], dim=-1)


class Conditioner(nn.Module):
    """Turns an embedding into the tokens that the U-Net attends to.

    One token from `patch_fc`; with a `region_width`, a second one from `region_fc` for the
    embedding of the patch's wider surroundings, zeros where there is none.
    Source: Graikos et al. 2024, `PatchEmbedder` and `SSLEmbedder`.
    """

    def __init__(self, patch_width: int, context_width: int, region_width: int = 0) -> None:
        super().__init__()
        self.patch_fc = nn.Linear(patch_width, context_width)
        self.region_fc = nn.Linear(region_width, context_width) if region_width else None

    def forward(self, embedding: Tensor) -> Tensor:
        """Return tokens float [B, 1 or 2, context] of embeddings float [B, D]."""
        tokens = [self.patch_fc(embedding)]
        if self.region_fc is not None:
            missing = embedding.new_zeros(len(embedding), self.region_fc.in_features)
            tokens.append(self.region_fc(missing))
        return torch.stack(tokens, dim=1)
