"""A loaded model made ready for inference: the same results from less work and memory.

What training needs stays as it is: these functions change networks in place, and are for those
that one segmenter has loaded for itself.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import VQModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.features import FeatureExtractor
from model.head import Head


class LeanResnet(nn.Module):
    """A residual block of diffusers for inference: in place where it may be, no division by 1.

    Source: He et al. 2016; the order of its layers is Ho et al. 2020's.
    """

    def __init__(self, block: ResnetBlock2D) -> None:
        super().__init__()
        self.norm1, self.conv1 = block.norm1, block.conv1
        self.norm2, self.conv2 = block.norm2, block.conv2
        self.time, self.shortcut = block.time_emb_proj, block.conv_shortcut

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """Return float [B, C', h, w] of [B, C, h, w] and the timestep's embedding [1, D]."""
        hidden = self.conv1(silu(self.norm1(x), inplace=True))
        if self.time is not None and temb is not None:
            hidden = hidden.add_(self.time(silu(temb))[:, :, None, None])
        hidden = self.conv2(silu(self.norm2(hidden), inplace=True))
        return hidden.add_(x if self.shortcut is None else self.shortcut(x))


def make_lean(
    extractor: FeatureExtractor,
    resnet: type[LeanResnet] = LeanResnet,
    dtype: torch.dtype = torch.float32,
) -> FeatureExtractor:
    """Return the extractor without what its features do not read, in the layout convolutions like.

    dtype: of the weights; the encoder stays float32, since its embeddings are compared.
    """
    _drop_unread(extractor)
    backbone = extractor.backbone
    read = [m for m in (backbone.autoencoder, backbone.unet, backbone.stem) if m is not None]
    for network in read:
        _replace_resnets(network, resnet)
        _convert(network, dtype)
    return extractor


def make_head_lean(head: Head, dtype: torch.dtype = torch.float32) -> Head:
    """Return the head with its normalisations folded into its convolutions, if float32.

    Of lower types the first ones stay, since they take away offsets that such types would round.
    """
    blocks: list[Any] = [*list(head.context)[1:], head.refine]
    for layers in blocks:
        layers[0] = fuse_conv_bn_eval(layers[0], layers[1])
        layers[1] = nn.Identity()
        layers[2] = nn.ReLU(inplace=True)
    if dtype == torch.float32:
        for index, norm in enumerate(head.norms):
            _fold_into(head.projections[index], norm)
            head.norms[index] = nn.Identity()
    _convert(head, dtype)
    return head.requires_grad_(False)


def _fold_into(project: Any, norm: Any) -> None:
    """Fold a normalisation without weights of its own into the 1x1 convolution after it."""
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    weight = project.weight.double() * factor[:, None, None]
    shift = (weight * norm.running_mean.double()[:, None, None]).sum(dim=(1, 2, 3))
    project.bias.data = (project.bias.double() - shift).to(project.bias.dtype)
    project.weight.data = weight.to(project.weight.dtype)


def _drop_unread(extractor: FeatureExtractor) -> None:
    """Take away the decoder of the autoencoder and the U-Net's end."""
    network, unet = extractor.backbone.autoencoder.network, extractor.backbone.unet
    del network.decoder, network.post_quant_conv
    if isinstance(network, VQModel):
        del network.quantize
    last = max(extractor.spec.up_blocks, default=-1)
    unet.up_blocks = unet.up_blocks[: last + 1]
    del unet.conv_norm_out, unet.conv_act, unet.conv_out


def _replace_resnets(network: nn.Module, resnet: type[LeanResnet]) -> None:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ResnetBlock2D) and _is_plain(child):
                setattr(parent, name, resnet(child))


def _is_plain(block: ResnetBlock2D) -> bool:
    """Return whether a block computes what `LeanResnet` does."""
    resamples = block.upsample is not None or block.downsample is not None
    special = block.time_embedding_norm != "default" or block.skip_time_act
    return (
        isinstance(block.nonlinearity, nn.SiLU)
        and block.output_scale_factor == 1
        and not (resamples or special)
    )


def _convert(network: nn.Module, dtype: torch.dtype) -> None:
    """Bring the weights to a type, those of convolutions into channels_last."""
    for weight in network.parameters():
        layout = torch.channels_last if weight.ndim == 4 else torch.preserve_format
        weight.data = weight.data.to(dtype, memory_format=layout)
