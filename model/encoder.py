"""The self-supervised encoder and what makes its embedding a condition of the U-Net."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention
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
        tokens = self.network.embeddings(pixels, interpolate_pos_encoding=True)
        *inner, last = self.network.layers
        for layer in inner:
            tokens = layer(tokens)
        return normalize(self.network.layernorm(_class_token(last, tokens))[:, 0], dim=-1)


def _class_token(layer: Any, tokens: Tensor) -> Tensor:
    """Return what a layer makes of the class token, float [B, 1, D]; the others only tell it."""
    attention, normed = layer.attention, layer.layernorm_before(tokens)

    def heads(rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    seen = scaled_dot_product_attention(
        heads(attention.q_proj(normed[:, :1])),
        heads(attention.k_proj(normed)),
        heads(attention.v_proj(normed)),
        scale=attention.scaling,
    )
    token = attention.o_proj(seen.transpose(1, 2).flatten(2)) + tokens[:, :1]
    return token + layer.mlp(layer.layernorm_after(token))


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

    @property
    def reads_embedding(self) -> bool:
        """Return whether the tokens depend on the embedding at all."""
        return bool(self.patch_fc.weight.any())

    def forward(self, embedding: Tensor) -> Tensor:
        """Return tokens float [B, 1 or 2, context] of embeddings float [B, D]."""
        tokens = [self.patch_fc(embedding)]
        if self.region_fc is not None:
            missing = embedding.new_zeros(len(embedding), self.region_fc.in_features)
            tokens.append(self.region_fc(missing))
        return torch.stack(tokens, dim=1)
