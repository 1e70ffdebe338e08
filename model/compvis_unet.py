"""CompVis' U-Net as diffusers' UNet2DConditionModel."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor

from model.checkpoints import fill
from model.compvis import LatentDiffusion
from model.errors import ModelError

GROUPS = 32  # of every group norm; CompVis' code knows no other number
LATENT_SIDE = 64
_FIXED: dict[str, Any] = {
    "resblock_updown": False,
    "use_scale_shift_norm": False,
    "conv_resample": True,
    "num_classes": None,
    "dims": 2,
    "use_spatial_transformer": True,
}
_BLOCK_NAMES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


@dataclass(frozen=True)
class UNetShape:
    """What fixes a CompVis U-Net.

    widths, attention: channels of each level and whether it attends, fine to coarse. blocks:
    residual blocks per level on the way down. heads: attention heads of each level.
    """

    channels_in: int
    channels_out: int
    widths: tuple[int, ...]
    attention: tuple[bool, ...]
    blocks: int
    depth: int
    context: int
    heads: tuple[int, ...]
    linear: bool = False

    def network(self) -> UNet2DConditionModel:
        """Return a network of this shape with weights of no meaning."""
        down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in self.attention]
        up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(self.attention)]
        return UNet2DConditionModel(
            sample_size=LATENT_SIDE,
            in_channels=self.channels_in,
            out_channels=self.channels_out,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            block_out_channels=self.widths,
            layers_per_block=self.blocks,
            norm_num_groups=GROUPS,
            cross_attention_dim=self.context,
            attention_head_dim=self.heads,  # diffusers' name for the number of heads
            transformer_layers_per_block=self.depth,
            use_linear_projection=self.linear,
        )


def convert_unet(source: LatentDiffusion) -> UNet2DConditionModel:
    """Return the checkpoint's U-Net, float32.

    Raises:
        ModelError: keys are missing, left over or of another shape, or the kind is not read.
    """
    settings = source.settings_of("unet_config")
    try:
        shape = _given(settings) if settings else _inferred(source.unet)
        network = shape.network()
    except KeyError as error:
        file = source.config_path if settings else source.path
        raise ModelError(f"{file} lacks the U-Net's {error.args[0]}") from error
    except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        file = source.config_path if settings else source.path
        raise ModelError(f"{file} describes no U-Net that can be built ({error})") from error
    return fill(network, unet_names(shape), source.unet, source.path)


def unet_names(shape: UNetShape) -> Callable[[str], str]:
    """Return a function from diffusers' name of a weight to CompVis' name of it."""
    per_level = shape.blocks + 1  # on the way down the last is the downsampling

    def source(name: str) -> str:
        end = next((e for e in _ENDS if name.startswith(f"{e}.")), None)
        if end:
            return _ENDS[end] + name.removeprefix(end)
        way, level, kind, index, rest = _parts(name)
        if kind == "resnets":
            inner, _, last = rest.rpartition(".")
            rest = f"{_BLOCK_NAMES[inner]}.{last}"
        place = {"resnets": 0, "attentions": 1}.get(kind, 0)
        if way == "mid":
            return f"middle_block.{2 * index if kind == 'resnets' else 1}.{rest}"
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * per_level}.0.{rest.replace('conv', 'op')}"
        if kind == "upsamplers":
            place = 2 if shape.attention[-1 - level] else 1
            return f"output_blocks.{level * per_level + shape.blocks}.{place}.{rest}"
        block = level * per_level + index
        return (
            f"input_blocks.{block + 1}.{place}.{rest}"
            if way == "down"
            else (f"output_blocks.{block}.{place}.{rest}")
        )

    return source


def _parts(name: str) -> tuple[str, int, str, int, str]:
    """Return (way, level, kind, index, rest) of a name like down_blocks.1.resnets.0.conv1.bias."""
    match = re.fullmatch(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?([a-z]+)\.(\d+)\.(.+)", name)
    if match is None:
        raise ValueError(f"diffusers has a weight {name} that CompVis' U-Net has not")
    way, level, kind, index, rest = match.groups()
    return way, int(level or 0), kind, int(index), rest


def _given(settings: Mapping[str, Any]) -> UNetShape:
    for key, value in _FIXED.items():
        if settings.get(key, value) != value:
            raise ValueError(f"{key} {settings[key]!r} is not read, only {value!r}")
    base = int(settings["model_channels"])
    mults = tuple(int(m) for m in settings["channel_mult"])
    levels = range(len(mults))
    widths = tuple(base * m for m in mults)
    attends = {int(r) for r in settings["attention_resolutions"]}
    per_head = int(settings.get("num_head_channels", -1))
    heads = int(settings.get("num_heads", -1))
    return UNetShape(
        channels_in=int(settings["in_channels"]),
        channels_out=int(settings["out_channels"]),
        widths=widths,
        attention=tuple(2**level in attends for level in levels),
        blocks=int(settings["num_res_blocks"]),
        depth=int(settings.get("transformer_depth", 1)),
        context=int(settings["context_dim"]),
        heads=tuple(heads if per_head < 1 else width // per_head for width in widths),
        linear=bool(settings.get("use_linear_in_transformer", False)),
    )


def _inferred(tensors: Mapping[str, Tensor]) -> UNetShape:
    """Return the shape that the weights show; one head, as in the published models."""
    widths: list[int] = []
    attention: list[bool] = []
    blocks, fresh, index = 0, True, 1
    while any(key.startswith(f"input_blocks.{index}.") for key in tensors):
        if f"input_blocks.{index}.0.op.weight" in tensors:
            fresh = True
        else:
            width = tensors[f"input_blocks.{index}.0.in_layers.2.weight"].shape[0]
            if fresh:
                widths.append(width)
                attention.append(f"input_blocks.{index}.1.proj_in.weight" in tensors)
            fresh, blocks = False, blocks + (len(widths) == 1)
        index += 1
    middle = "middle_block.1.transformer_blocks"
    depth = len({k.split(".")[3] for k in tensors if k.startswith(f"{middle}.")})
    return UNetShape(
        channels_in=tensors["input_blocks.0.0.weight"].shape[1],
        channels_out=tensors["out.2.weight"].shape[0],
        widths=tuple(widths),
        attention=tuple(attention),
        blocks=blocks,
        depth=depth,
        context=tensors[f"{middle}.0.attn2.to_k.weight"].shape[1],
        heads=(1,) * len(widths),
        linear=tensors["middle_block.1.proj_in.weight"].ndim == 2,
    )
