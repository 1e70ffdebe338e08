"""What the published networks compute, straight from CompVis' and DINO's tensors.

Written with torch's functional operations only, from the papers and the names of the weights:
no module, no configuration, nothing of the program under test.
Source: Rombach et al. 2022; Esser et al. 2021; Dosovitskiy et al. 2021; Caron et al. 2021.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]


def within(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def group_norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return F.group_norm(x, 32, w[f"{name}.weight"], w[f"{name}.bias"], eps)


def layer_norm(w: Weights, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def dense(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def convolve(w: Weights, name: str, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, padding)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return scores.softmax(dim=-1) @ value


# U-Net


def timestep_features(t: int, width: int) -> Tensor:
    rates = torch.exp(-math.log(10000.0) * torch.arange(width // 2) / (width // 2))
    return torch.cat([torch.cos(t * rates), torch.sin(t * rates)])[None]


def res_block(w: Weights, x: Tensor, time: Tensor) -> Tensor:
    hidden = convolve(w, "in_layers.2", F.silu(group_norm(w, "in_layers.0", x, 1e-5)))
    hidden = hidden + dense(w, "emb_layers.1", F.silu(time))[:, :, None, None]
    hidden = convolve(w, "out_layers.3", F.silu(group_norm(w, "out_layers.0", hidden, 1e-5)))
    has_skip = "skip_connection.weight" in w
    return hidden + (convolve(w, "skip_connection", x, padding=0) if has_skip else x)


def transformer_block(w: Weights, x: Tensor, context: Tensor) -> Tensor:
    for number, attention in ((1, "attn1"), (2, "attn2")):
        own = layer_norm(w, f"norm{number}", x)
        seen = own if number == 1 else context
        parts = (
            dense(w, f"{attention}.{p}", s)
            for p, s in (("to_q", own), ("to_k", seen), ("to_v", seen))
        )
        x = x + dense(w, f"{attention}.to_out.0", attend(*parts))
    value, gate = dense(w, "ff.net.0.proj", layer_norm(w, "norm3", x)).chunk(2, dim=-1)
    return x + dense(w, "ff.net.2", value * F.gelu(gate))


def spatial_transformer(w: Weights, x: Tensor, context: Tensor) -> Tensor:
    hidden = convolve(w, "proj_in", group_norm(w, "norm", x, 1e-6), padding=0)
    tokens = hidden.flatten(2).transpose(1, 2)
    tokens = transformer_block(within(w, "transformer_blocks.0."), tokens, context)
    return x + convolve(w, "proj_out", tokens.transpose(1, 2).reshape(x.shape), padding=0)


def stage(w: Weights, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
    """Run one of CompVis' numbered stages, whose parts tell their kind by their names."""
    for part in sorted({key.split(".")[0] for key in w}):
        inner = within(w, f"{part}.")
        if "in_layers.2.weight" in inner:
            x = res_block(inner, x, time)
        elif "proj_in.weight" in inner:
            x = spatial_transformer(inner, x, context)
        elif "op.weight" in inner:
            x = convolve(inner, "op", x, stride=2)
        elif "conv.weight" in inner:
            x = convolve(inner, "conv", F.interpolate(x, scale_factor=2.0, mode="nearest"))
        else:
            x = F.conv2d(x, inner["weight"], inner["bias"], padding=1)
    return x


def stages(w: Weights, name: str) -> list[dict[str, Tensor]]:
    numbers = {int(key.split(".")[1]) for key in w if key.startswith(f"{name}.")}
    return [within(w, f"{name}.{number}.") for number in sorted(numbers)]


def unet_maps(w: Weights, x: Tensor, t: int, context: Tensor) -> list[Tensor]:
    """Return the outputs of the decoder's levels, coarse to fine, after their upsampling."""
    time = dense(w, "time_embed.0", timestep_features(t, w["time_embed.0.weight"].shape[1]))
    time = dense(w, "time_embed.2", F.silu(time)).expand(len(x), -1)
    skips: list[Tensor] = []
    for part in stages(w, "input_blocks"):
        x = stage(part, x, time, context)
        skips.append(x)
    x = stage(within(w, "middle_block."), x, time, context)
    maps = []
    decoder = stages(w, "output_blocks")
    for part in decoder:
        x = stage(part, torch.cat([x, skips.pop()], dim=1), time, context)
        if any(key.endswith("conv.weight") and key.count(".") == 2 for key in part):
            maps.append(x)
    return [*maps, x]


# Autoencoder


def vq_block(w: Weights, x: Tensor) -> Tensor:
    hidden = convolve(w, "conv1", F.silu(group_norm(w, "norm1", x, 1e-6)))
    hidden = convolve(w, "conv2", F.silu(group_norm(w, "norm2", hidden, 1e-6)))
    return hidden + (convolve(w, "nin_shortcut", x, padding=0) if "nin_shortcut.weight" in w else x)


def vq_attention(w: Weights, x: Tensor) -> Tensor:
    hidden = group_norm(w, "norm", x, 1e-6)
    parts = (convolve(w, p, hidden, padding=0).flatten(2).transpose(1, 2) for p in "qkv")
    seen = attend(*parts).transpose(1, 2).reshape(x.shape)
    return x + convolve(w, "proj_out", seen, padding=0)


def vq_latent(w: Weights, x: Tensor) -> Tensor:
    """Return the latent before quantisation."""
    encoder = within(w, "encoder.")
    x = convolve(encoder, "conv_in", x)
    for level in stages(encoder, "down"):
        for block in stages(level, "block"):
            x = vq_block(block, x)
        if "downsample.conv.weight" in level:
            x = convolve(level, "downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2, padding=0)
    x = vq_block(within(encoder, "mid.block_1."), x)
    x = vq_attention(within(encoder, "mid.attn_1."), x)
    x = vq_block(within(encoder, "mid.block_2."), x)
    x = convolve(encoder, "conv_out", F.silu(group_norm(encoder, "norm_out", x, 1e-6)))
    return convolve(w, "quant_conv", x, padding=0)


# Vision transformer


def cubic(distance: float) -> float:
    """Return Keys' cubic kernel with a = -0.75."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def cubic_matrix(side: int, grid: int) -> Tensor:
    """Return [grid, side]: sampling at steps of side / (grid + 0.1), edges repeated."""
    matrix = torch.zeros(grid, side, dtype=torch.float64)
    for row in range(grid):
        centre = (row + 0.5) * side / (grid + 0.1) - 0.5
        for near in range(math.floor(centre) - 1, math.floor(centre) + 3):
            matrix[row, min(max(near, 0), side - 1)] += cubic(centre - near)
    return matrix


def vit_positions(stored: Tensor, grid: int) -> Tensor:
    side = math.isqrt(stored.shape[1] - 1)
    matrix = cubic_matrix(side, grid)
    plane = stored[0, 1:].double().reshape(side, side, -1)
    plane = torch.einsum("ya,xb,abd->yxd", matrix, matrix, plane)
    return torch.cat([stored[0, :1], plane.reshape(grid * grid, -1).float()])


def vit_embedding(w: Weights, x: Tensor, heads: int) -> Tensor:
    """Return the class token after the last norm, not normalised, [B, D]."""
    patches = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=16)
    grid = patches.shape[-1]
    tokens = patches.flatten(2).transpose(1, 2)
    tokens = torch.cat([w["cls_token"].expand(len(x), -1, -1), tokens], dim=1)
    tokens = tokens + vit_positions(w["pos_embed"], grid)
    for block in stages(w, "blocks"):
        qkv = dense(block, "attn.qkv", layer_norm(block, "norm1", tokens, 1e-6))
        q, k, v = (p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in qkv.chunk(3, dim=-1))
        seen = attend(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + dense(block, "attn.proj", seen)
        hidden = F.gelu(dense(block, "mlp.fc1", layer_norm(block, "norm2", tokens, 1e-6)))
        tokens = tokens + dense(block, "mlp.fc2", hidden)
    return layer_norm(w, "norm", tokens, 1e-6)[:, 0]
