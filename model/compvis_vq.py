"""CompVis' VQ autoencoder as diffusers' VQModel."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from diffusers import VQModel
from torch import Tensor

from model.checkpoints import fill
from model.compvis import LatentDiffusion
from model.errors import ModelError

CODES = "quantize.embedding.weight"
_RULES = (
    (r"mid_block\.resnets\.0\.", "mid.block_1."),
    (r"mid_block\.resnets\.1\.", "mid.block_2."),
    (r"mid_block\.attentions\.0\.group_norm\.", "mid.attn_1.norm."),
    (r"mid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
    (r"mid_block\.attentions\.0\.to_out\.0\.", "mid.attn_1.proj_out."),
    (r"down_blocks\.(\d+)\.resnets\.(\d+)\.", r"down.\1.block.\2."),
    (r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"conv_shortcut\.", "nin_shortcut."),
    (r"conv_norm_out\.", "norm_out."),
)


def convert_autoencoder(source: LatentDiffusion) -> VQModel:
    """Return the checkpoint's first stage, float32.

    Raises:
        ModelError: keys are missing, left over or of another shape, or the kind is not read.
    """
    tensors = source.first_stage
    if CODES not in tensors:
        raise ModelError(f"{source.path} lacks first_stage_model.{CODES}: not a VQ autoencoder")
    attends = [key for key in tensors if re.search(r"(down|up)\.\d+\.attn\.", key)]
    if attends:
        raise ModelError(f"{source.path}: an autoencoder with {attends[0]} is not read")
    settings = source.settings_of("first_stage_config")
    details = source.settings_of("first_stage_config", "ddconfig")
    try:
        shape = _given(settings, details) if settings else _inferred(tensors)
        network = VQModel(**shape, scaling_factor=source.scale_factor)
    except KeyError as error:
        file = source.config_path if settings else source.path
        raise ModelError(f"{file} lacks the autoencoder's {error.args[0]}") from error
    except (TypeError, ValueError, IndexError) as error:
        file = source.config_path if settings else source.path
        raise ModelError(f"{file} describes no autoencoder that can be built ({error})") from error
    levels = len(network.config.block_out_channels)
    return fill(network, autoencoder_names(levels), tensors, source.path)


def autoencoder_names(levels: int) -> Callable[[str], str]:
    """Return a function from diffusers' name of a weight to CompVis' name of it.

    CompVis counts the decoder's levels from the finest, diffusers from the coarsest.
    """

    def source(name: str) -> str:
        up = re.match(r"(decoder)\.up_blocks\.(\d+)\.", name)
        if up:
            level = levels - 1 - int(up[2])
            name = f"decoder.up.{level}." + name.removeprefix(up[0])
            name = re.sub(r"\.resnets\.", ".block.", name)
            name = re.sub(r"\.upsamplers\.0\.", ".upsample.", name)
        for pattern, replacement in _RULES:
            name = re.sub(pattern, replacement, name)
        return name

    return source


def _given(settings: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, Any]:
    widths = tuple(int(details["ch"]) * int(m) for m in details["ch_mult"])
    if details.get("double_z", False):
        raise ValueError("double_z is not read, only VQ autoencoders")
    return _vq(
        widths=widths,
        blocks=int(details["num_res_blocks"]),
        channels=int(details["z_channels"]),
        codes=(int(settings["n_embed"]), int(settings["embed_dim"])),
        side=int(details.get("resolution", 256)),
    )


def _inferred(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    widths: list[int] = []
    while (key := f"encoder.down.{len(widths)}.block.0.conv1.weight") in tensors:
        widths.append(tensors[key].shape[0])
    first = {k.split(".")[4] for k in tensors if k.startswith("encoder.down.0.block.")}
    entries, width = tensors[CODES].shape
    return _vq(
        widths=tuple(widths),
        blocks=len(first),
        channels=tensors["encoder.conv_out.weight"].shape[0],
        codes=(entries, width),
        side=256,
    )


def _vq(
    widths: tuple[int, ...], blocks: int, channels: int, codes: tuple[int, int], side: int
) -> dict[str, Any]:
    return {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "latent_channels": channels,
        "sample_size": side,
        "num_vq_embeddings": codes[0],
        "vq_embed_dim": codes[1],
        "norm_num_groups": 32,
    }
