"""Checkpoints with exactly the keys of the published ones, at any size, with random weights.

Names and shapes are written down here from the published layouts, and know nothing of how the
program converts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """Sizes of a latent diffusion model; the defaults are small, PUBLISHED is the real one."""

    base: int = 32
    mults: tuple[int, ...] = (1, 2, 2, 3)
    blocks: int = 1
    attention: tuple[int, ...] = (8, 4, 2)
    context: int = 48
    vq_base: int = 32
    vq_mults: tuple[int, ...] = (1, 2, 2)
    vq_blocks: int = 1
    codes: int = 64
    vit_width: int = 64
    vit_depth: int = 2


PUBLISHED = Sizes(192, (1, 2, 3, 5), 2, (8, 4, 2), 512, 128, (1, 2, 4), 2, 8192, 384, 12)


def conv(name: str, cin: int, cout: int, side: int = 3) -> Shapes:
    return {f"{name}.weight": (cout, cin, side, side), f"{name}.bias": (cout,)}


def linear(name: str, cin: int, cout: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (cout, cin)} | ({f"{name}.bias": (cout,)} if bias else {})


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def res_block(name: str, cin: int, cout: int, time: int) -> Shapes:
    shapes = norm(f"{name}.in_layers.0", cin) | conv(f"{name}.in_layers.2", cin, cout)
    shapes |= linear(f"{name}.emb_layers.1", time, cout)
    shapes |= norm(f"{name}.out_layers.0", cout) | conv(f"{name}.out_layers.3", cout, cout)
    return shapes | (conv(f"{name}.skip_connection", cin, cout, 1) if cin != cout else {})


def transformer(name: str, width: int, context: int) -> Shapes:
    block = f"{name}.transformer_blocks.0"
    shapes = norm(f"{name}.norm", width) | conv(f"{name}.proj_in", width, width, 1)
    for attention, seen in (("attn1", width), ("attn2", context)):
        shapes |= linear(f"{block}.{attention}.to_q", width, width, bias=False)
        shapes |= linear(f"{block}.{attention}.to_k", seen, width, bias=False)
        shapes |= linear(f"{block}.{attention}.to_v", seen, width, bias=False)
        shapes |= linear(f"{block}.{attention}.to_out.0", width, width)
    shapes |= linear(f"{block}.ff.net.0.proj", width, 8 * width)
    shapes |= linear(f"{block}.ff.net.2", 4 * width, width)
    for number in (1, 2, 3):
        shapes |= norm(f"{block}.norm{number}", width)
    return shapes | conv(f"{name}.proj_out", width, width, 1)


def unet_shapes(sizes: Sizes) -> Shapes:
    time = 4 * sizes.base
    shapes = linear("time_embed.0", sizes.base, time) | linear("time_embed.2", time, time)
    shapes |= conv("input_blocks.0.0", 3, sizes.base)
    skips, width, index = [sizes.base], sizes.base, 1
    for level, mult in enumerate(sizes.mults):
        for _ in range(sizes.blocks):
            shapes |= res_block(f"input_blocks.{index}.0", width, mult * sizes.base, time)
            width = mult * sizes.base
            if 2**level in sizes.attention:
                shapes |= transformer(f"input_blocks.{index}.1", width, sizes.context)
            skips.append(width)
            index += 1
        if level < len(sizes.mults) - 1:
            shapes |= conv(f"input_blocks.{index}.0.op", width, width)
            skips.append(width)
            index += 1
    shapes |= res_block("middle_block.0", width, width, time)
    shapes |= transformer("middle_block.1", width, sizes.context)
    shapes |= res_block("middle_block.2", width, width, time)
    return shapes | _decoder_shapes(sizes, skips, width, time)


def _decoder_shapes(sizes: Sizes, skips: list[int], width: int, time: int) -> Shapes:
    shapes: Shapes = {}
    index = 0
    for level, mult in reversed(list(enumerate(sizes.mults))):
        for block in range(sizes.blocks + 1):
            name, out = f"output_blocks.{index}", mult * sizes.base
            shapes |= res_block(f"{name}.0", width + skips.pop(), out, time)
            width, place = out, 1
            if 2**level in sizes.attention:
                shapes |= transformer(f"{name}.1", width, sizes.context)
                place = 2
            if level and block == sizes.blocks:
                shapes |= conv(f"{name}.{place}.conv", width, width)
            index += 1
    return shapes | norm("out.0", width) | conv("out.2", width, 3)


def vq_block(name: str, cin: int, cout: int) -> Shapes:
    shapes = norm(f"{name}.norm1", cin) | conv(f"{name}.conv1", cin, cout)
    shapes |= norm(f"{name}.norm2", cout) | conv(f"{name}.conv2", cout, cout)
    return shapes | (conv(f"{name}.nin_shortcut", cin, cout, 1) if cin != cout else {})


def vq_middle(name: str, width: int) -> Shapes:
    shapes = vq_block(f"{name}.block_1", width, width) | vq_block(f"{name}.block_2", width, width)
    shapes |= norm(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= conv(f"{name}.attn_1.{part}", width, width, 1)
    return shapes


def vq_shapes(sizes: Sizes) -> Shapes:
    widths = [sizes.vq_base * mult for mult in sizes.vq_mults]
    shapes, width = conv("encoder.conv_in", 3, sizes.vq_base), sizes.vq_base
    for level, out in enumerate(widths):
        for block in range(sizes.vq_blocks):
            shapes |= vq_block(f"encoder.down.{level}.block.{block}", width, out)
            width = out
        if level < len(widths) - 1:
            shapes |= conv(f"encoder.down.{level}.downsample.conv", width, width)
    shapes |= vq_middle("encoder.mid", width) | norm("encoder.norm_out", width)
    shapes |= conv("encoder.conv_out", width, 3) | conv("decoder.conv_in", 3, width)
    shapes |= vq_middle("decoder.mid", width)
    for level, out in reversed(list(enumerate(widths))):
        for block in range(sizes.vq_blocks + 1):
            shapes |= vq_block(f"decoder.up.{level}.block.{block}", width, out)
            width = out
        if level:
            shapes |= conv(f"decoder.up.{level}.upsample.conv", width, width)
    shapes |= norm("decoder.norm_out", width) | conv("decoder.conv_out", width, 3)
    shapes |= conv("quant_conv", 3, 3, 1) | conv("post_quant_conv", 3, 3, 1)
    return shapes | {"quantize.embedding.weight": (sizes.codes, 3)}


def vit_shapes(sizes: Sizes) -> Shapes:
    width = sizes.vit_width
    shapes: Shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 197, width)}
    shapes |= conv("patch_embed.proj", 3, width, 16)
    for block in (f"blocks.{index}" for index in range(sizes.vit_depth)):
        shapes |= norm(f"{block}.norm1", width) | linear(f"{block}.attn.qkv", width, 3 * width)
        shapes |= linear(f"{block}.attn.proj", width, width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.mlp.fc1", width, 4 * width)
        shapes |= linear(f"{block}.mlp.fc2", 4 * width, width)
    return shapes | norm("norm", width)


def conditioner_shapes(patch: int, context: int, region: int = 0) -> Shapes:
    shapes = linear("patch_fc", patch, context)
    return shapes | (linear("region_fc", region, context) if region else {})


def zoom_conditioner_shapes(context: int) -> Shapes:
    """Return the beginning of ZoomLDM's: its transformer is of torchvision and is not needed."""
    shapes: Shapes = {"mag_embedding.weight": (8, context), "pad_token": (1, 1, context)}
    shapes |= linear("dim_reduce", 1024, context) | linear("final_proj", context, context)
    return shapes | norm("encoder.ln", context) | norm("layer_norm", context)


def random_weights(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Return weights under which activations keep their size and none is zero."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _random(name, shape, generator) for name, shape in shapes.items()}


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return 1 + 0.1 * values if name.endswith("weight") else 0.05 * values
    if "token" in name or ("embed" in name and len(shape) == 3):
        return 0.3 * values
    return values / float(np.prod(shape[1:])) ** 0.5


def ldm_state(
    sizes: Sizes, conditioner: Shapes, ema: bool = False, seed: int = 0
) -> dict[str, Tensor]:
    """Return the state dict of a LatentDiffusion, its schedule's tables among it."""
    unet = random_weights(unet_shapes(sizes), seed)
    state = {f"model.diffusion_model.{k}": v for k, v in unet.items()}
    vq = random_weights(vq_shapes(sizes), seed + 1)
    state |= {f"first_stage_model.{k}": v for k, v in vq.items()}
    tokens = random_weights(conditioner, seed + 2)
    state |= {f"cond_stage_model.{k}": v for k, v in tokens.items()}
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, dim=0)
    state |= {"betas": betas.float(), "alphas_cumprod": abar.float()}
    state |= {"sqrt_one_minus_alphas_cumprod": (1 - abar).sqrt().float()}
    if ema:
        averages = random_weights(unet_shapes(sizes), seed + 3)
        flat = {f"diffusion_model.{k}".replace(".", ""): v for k, v in averages.items()}
        state |= {f"model_ema.{k}": v for k, v in flat.items()}
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    return state


def vit_checkpoint(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what DINO saves: student, teacher with its head, command line and all."""
    teacher = {f"module.backbone.{k}": v for k, v in weights.items()}
    head = {
        "module.head.mlp.0.weight": torch.ones(4, 4),
        "module.head.last_layer.weight_g": torch.ones(4, 1),
    }
    student = {k: torch.zeros_like(v) for k, v in teacher.items()}
    return {"student": student, "teacher": teacher | head, "epoch": 100}


def config_of(sizes: Sizes) -> dict[str, Any]:
    """Return the configuration as it is published, for these sizes."""
    unet = {
        "image_size": 64,
        "in_channels": 3,
        "out_channels": 3,
        "model_channels": sizes.base,
        "attention_resolutions": list(sizes.attention),
        "num_res_blocks": sizes.blocks,
        "channel_mult": list(sizes.mults),
        "num_heads": 1,
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": sizes.context,
    }
    details = {
        "double_z": False,
        "z_channels": 3,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": sizes.vq_base,
        "ch_mult": list(sizes.vq_mults),
        "num_res_blocks": sizes.vq_blocks,
        "attn_resolutions": [],
    }
    first = {"embed_dim": 3, "n_embed": sizes.codes, "ddconfig": details}
    params = {
        "linear_start": 0.0015,
        "linear_end": 0.0195,
        "timesteps": 1000,
        "conditioning_key": "crossattn",
        "use_ema": False,
        "unet_config": {"target": "ldm.modules.nosuch.UNetModel", "params": unet},
        "first_stage_config": {"target": "ldm.models.nosuch.VQModelInterface", "params": first},
    }
    return {"model": {"target": "ldm.models.nosuch.LatentDiffusion", "params": params}}


def write_sources(
    folder: Path,
    state: Mapping[str, Tensor],
    vit: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    beside: Sequence[tuple[str, Any]] = (),
) -> tuple[Path, Path, Path]:
    """Write last.ckpt, vit256_small_dino.pth and project.yaml; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    ldm, encoder, yaml_file = (
        folder / name for name in ("last.ckpt", "vit256_small_dino.pth", "project.yaml")
    )
    torch.save({"epoch": 3, "state_dict": dict(state), **dict(beside)}, ldm)
    torch.save(vit_checkpoint(vit), encoder)
    if config is not None:
        yaml_file.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    return ldm, encoder, yaml_file
