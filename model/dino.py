"""Vision transformers in DINO's layout (HIPT, iBOT) as transformers' ViTModel.

Source: Caron et al. 2021 (DINO); Chen et al. 2022 (HIPT).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import ViTConfig, ViTModel

from model.checkpoints import fill, read_checkpoint
from model.errors import ModelError

WRAPPERS = ("teacher", "student", "state_dict")
HEAD_WIDTH = 64  # of every attention head in DINO's sizes S, B and L
# What is normalised away before the encoder: (mean, std) of pixels in 0..1.
PIXELS = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_BESIDE = ("head.", "masked_embed", "mask_token")  # of training, not of the embedding
_RULES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"attention\.([qkv])_proj\.", r"attn.qkv.\1."),
    (r"attention\.o_proj\.", "attn.proj."),
    (r"layernorm_before\.", "norm1."),
    (r"layernorm_after\.", "norm2."),
    (r"^layernorm\.", "norm."),
)


def convert_encoder(path: Path, side_m: int, pixels: str = "half") -> ViTModel:
    """Return the vision transformer of a DINO checkpoint for patches of `side_m` pixels, float32.

    Position embeddings are brought to that side once and for all, by DINO's own rule. `pixels`
    names the normalisation that the encoder was trained with; it goes into the first layer, so
    that the encoder takes pixels in -1..1 whatever it is.

    Raises:
        ModelError: the file cannot be read, or is no such transformer.
    """
    tensors = _plain_names(read_checkpoint(path, WRAPPERS))
    try:
        config = _config(tensors, side_m)
    except KeyError as error:
        raise ModelError(
            f"{path} is no vision transformer in DINO's layout: lacks {error}"
        ) from None
    except (ValueError, IndexError) as error:
        raise ModelError(f"{path} is no vision transformer that is read: {error}") from error
    vit = ViTModel(config, add_pooling_layer=False)
    prepared = _prepared(tensors, side_m // config.patch_size, pixels)
    return fill(vit, _source, prepared, path).eval()


def _plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {key: key.removeprefix("module.").removeprefix("backbone.") for key in tensors}
    return {n: tensors[key] for key, n in names.items() if not n.startswith(_BESIDE)}


def _config(tensors: Mapping[str, Tensor], side_m: int) -> ViTConfig:
    width = tensors["cls_token"].shape[-1]
    patch = tensors["patch_embed.proj.weight"].shape[-1]
    positions = tensors["pos_embed"].shape[1] - 1
    if width % HEAD_WIDTH:
        raise ValueError(f"its width {width} is not a multiple of {HEAD_WIDTH}")
    if side_m % patch or round(positions**0.5) ** 2 != positions:
        raise ValueError(f"patches of {patch} px, {positions} positions")
    layers = {key.split(".")[1] for key in tensors if key.startswith("blocks.")}
    return ViTConfig(
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=width // HEAD_WIDTH,
        intermediate_size=tensors["blocks.0.mlp.fc1.weight"].shape[0],
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        image_size=side_m,
        patch_size=patch,
        qkv_bias=True,
    )


def _source(name: str) -> str:
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _prepared(tensors: Mapping[str, Tensor], grid: int, pixels: str) -> dict[str, Tensor]:
    """Return the tensors with queries, keys and values apart, for `grid` patches a side."""
    prepared: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        inner, found, last = name.partition("attn.qkv.")
        if found and len(tensor) % 3 == 0:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            prepared |= {f"{inner}attn.qkv.{letter}.{last}": part for letter, part in parts}
        else:
            prepared[name] = tensor
    prepared["pos_embed"] = _resampled(prepared["pos_embed"].float(), grid)
    return prepared | _first_layer(prepared, pixels)


def _resampled(positions: Tensor, grid: int) -> Tensor:
    """Return position embeddings [1, 1 + grid^2, D] as DINO interpolates them.

    DINO adds 0.1 to the wanted side, and torch samples at (grid + 0.1) / side: that little
    stretch is part of what the model computes, so it is kept.
    """
    patches = positions[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    if side == grid:
        return positions
    plane = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    plane = interpolate(plane, scale_factor=(grid + 0.1) / side, mode="bicubic")
    return torch.cat([positions[:, :1], plane.flatten(2).transpose(1, 2)], dim=1)


def _first_layer(tensors: Mapping[str, Tensor], pixels: str) -> dict[str, Tensor]:
    """Return the patch embedding that takes pixels in -1..1 instead of normalised ones."""
    names = ("patch_embed.proj.weight", "patch_embed.proj.bias")
    if pixels == "half" or any(name not in tensors for name in names):
        return {}
    weight, bias = (tensors[name].double() for name in names)
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(1, 3, 1, 1) for v in PIXELS[pixels])
    shift = (weight * (0.5 - mean) / std).sum(dim=(1, 2, 3))
    return {names[0]: (weight * 0.5 / std).float(), names[1]: (bias + shift).float()}
