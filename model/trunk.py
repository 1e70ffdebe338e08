"""The U-Net as far as somebody reads it: nothing after the last tapped decoder block runs."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import UNet2DConditionModel
from torch import Tensor, nn


def decoder_maps(
    unet: UNet2DConditionModel,
    sample: Tensor,
    timestep: Tensor,
    tokens: Tensor,
    up_blocks: Sequence[int],
) -> list[Tensor]:
    """Return the outputs of decoder blocks, float [B, C_i, h_i, w_i], in the order asked for.

    `sample` is float [B, C, h, w], `timestep` an integer tensor of one number for the whole
    batch, `tokens` float [B, n, context]. The same numbers as those of a whole forward pass.
    Source: diffusers' `UNet2DConditionModel.forward`, for a model without added conditions.
    """
    time = _time(unet, sample, timestep)
    sample, skips = _encoded(unet, sample, time, tokens)
    taken: dict[int, Tensor] = {}
    sizes = _needs_sizes(unet, sample=skips[0])
    for index, block in enumerate(unet.up_blocks[: max(up_blocks) + 1]):
        count = len(block.resnets)
        used, skips = skips[-count:], skips[:-count]
        size = skips[-1].shape[2:] if sizes and skips else None
        sample = block(
            hidden_states=sample,
            temb=time,
            res_hidden_states_tuple=tuple(used),
            upsample_size=size,
            **_told(block, tokens),
        )
        taken[index] = sample
    return [taken[block] for block in up_blocks]


def _time(unet: UNet2DConditionModel, sample: Tensor, timestep: Tensor) -> Tensor:
    """Return the embedding of a timestep, float [1, D]: one row serves the batch."""
    embedding = unet.time_embedding(unet.get_time_embed(sample=sample[:1], timestep=timestep))
    return embedding if unet.time_embed_act is None else unet.time_embed_act(embedding)


def _encoded(
    unet: UNet2DConditionModel, sample: Tensor, time: Tensor, tokens: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return what the middle block gives, and what the decoder gets past it."""
    sample = unet.conv_in(2 * sample - 1.0 if unet.config.center_input_sample else sample)
    skips = [sample]
    for block in unet.down_blocks:
        sample, found = block(hidden_states=sample, temb=time, **_told(block, tokens))
        skips += found
    if unet.mid_block is not None:
        sample = unet.mid_block(sample, time, **_told(unet.mid_block, tokens))
    return sample, skips


def _told(block: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    attends = getattr(block, "has_cross_attention", False)
    return {"encoder_hidden_states": tokens} if attends else {}


def _needs_sizes(unet: UNet2DConditionModel, sample: Tensor) -> bool:
    """Return whether halving and doubling would not give the same sides back."""
    return any(side % 2**unet.num_upsamplers for side in sample.shape[-2:])
