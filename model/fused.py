"""Residual blocks whose normalisations and sums are one kernel each, for a GPU.

A convolution of bf16 there is about as quick as reading its input: what lies between two of them
decides. torch's own group norm wants another layout than convolutions, and copies to and fro.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, silu

from model.lean import LeanResnet

log = logging.getLogger(__name__)


class FusedResnet(LeanResnet):
    """A residual block with the convolutions' biases in the kernels after them."""

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """Return float [B, C', h, w] of [B, C, h, w] and the timestep's embedding [1, D]."""
        normed, added = kernels()
        offset = self.conv1.bias.float()[None]
        if self.time is not None and temb is not None:
            offset = offset + self.time(silu(temb)).float()
        hidden = _unbiased(self.conv1, normed(x, *_weights(self.norm1), None))
        hidden = _unbiased(self.conv2, normed(hidden, *_weights(self.norm2), offset))
        if self.shortcut is None:
            return added(x, hidden, self.conv2.bias)
        bias = self.conv2.bias.float() + self.shortcut.bias.float()
        return added(_unbiased(self.shortcut, x), hidden, bias)


def norm_silu(x: Tensor, weight: Tensor, bias: Tensor, eps: float, offset: Tensor | None) -> Tensor:
    """Return silu(group_norm(x + offset)), like `x` [B, C, h, w]; computed in float32.

    `weight` and `bias` are [groups, C / groups], `offset` [1, C]. Sums are taken per channel, then
    per group: along memory in channels_last.
    """
    batch, channels, height, width = x.shape
    y = x.float() if offset is None else x.float() + offset.float()[:, :, None, None]
    by_group = (batch, *weight.shape)
    count = height * width * weight.shape[1]
    mean = y.sum(dim=(2, 3)).view(by_group).sum(dim=2, keepdim=True) / count
    square = (y * y).sum(dim=(2, 3)).view(by_group).sum(dim=2, keepdim=True) / count
    scale = (square - mean * mean).clamp_min(0).add(eps).rsqrt() * weight.float()
    shift = bias.float() - mean * scale
    y = y * scale.view(batch, channels, 1, 1) + shift.view(batch, channels, 1, 1)
    return silu(y).to(x.dtype)


def add_biased(x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
    """Return x + y + bias, like `x` [B, C, h, w]; `bias` is [C]. Computed in float32."""
    return (x.float() + y.float() + bias.float()[:, None, None]).to(x.dtype)


@cache
def kernels() -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Return `norm_silu` and `add_biased`, compiled when they are first called, for all shapes."""
    return torch.compile(norm_silu, dynamic=True), torch.compile(add_biased, dynamic=True)


@cache
def compiles_on(device: torch.device) -> bool:
    """Return whether kernels can be compiled here: it takes Triton on a GPU, and a C compiler."""
    x = torch.zeros(2, 8, 4, 4, device=device, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    weight, offset = x.new_ones(2, 4), x.new_ones(1, 8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's compiler imports what torch deprecates
            normed, added = kernels()
            for one in (None, offset):
                normed(x, weight, weight, 1e-5, one)
            added(x, x, offset[0])
    except Exception as error:  # whatever a compiler raises
        told = (device, type(error).__name__, next(iter(str(error).splitlines()), ""))
        log.warning("no kernels can be compiled on %s (%s: %s); slower ones serve", *told)
        return False
    return True


def _weights(norm: nn.GroupNorm) -> tuple[Tensor, Tensor, float]:
    shape = (norm.num_groups, -1)
    return norm.weight.view(shape), norm.bias.view(shape), norm.eps


def _unbiased(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return conv2d(x, conv.weight, None, conv.stride, conv.padding)
