"""Pixels to latents: the first stage of the latent diffusion model."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor, nn

AUTOENCODERS: dict[str, Any] = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}


def to_signed(tiles: Tensor) -> Tensor:
    """Return uint8 [B, H, W, 3] as float32 [B, 3, H, W] in -1..1, as the paper's models expect."""
    return tiles.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


class Autoencoder(nn.Module):
    """The encoder half of an autoencoder, to deterministic latents.

    A VQ autoencoder gives its latent before quantisation, a KL one the mean.
    Source: Rombach et al. 2022.
    """

    def __init__(self, network: AutoencoderKL | VQModel) -> None:
        super().__init__()
        self.network = network
        self.scale = float(network.config.scaling_factor)

    @property
    def factor(self) -> int:
        """Return how many pixels one latent pixel is wide."""
        return 2 ** (len(self.network.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        return int(self.network.config.latent_channels)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return latents float [B, C, H/f, W/f] of pixels float [B, 3, H, W] in -1..1."""
        if pixels.device.type == "cpu":  # one by one, maps stay in the cache: twice as fast
            return torch.cat([self._encoded(patch) for patch in pixels.split(1)])
        return self._encoded(pixels)

    def _encoded(self, pixels: Tensor) -> Tensor:
        latent = self.network.encoder(pixels)
        if self.network.quant_conv is not None:
            latent = self.network.quant_conv(latent)
        if isinstance(self.network, AutoencoderKL):
            latent, _ = latent.chunk(2, dim=1)  # the mean; the rest is its variance
        return latent * self.scale
