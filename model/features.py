"""Diffusion features: one noised forward pass, the activations of chosen decoder blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from model.autoencoder import Autoencoder, to_signed
from model.encoder import Conditioner, Encoder
from model.schedule import NoiseSchedule, noise_field


class Backbone(nn.Module):
    """The frozen latent diffusion model and its conditioning encoder.

    Source: Danisetty et al. 2025 (PathSegDiff), the feature extraction; Baranchuk et al. 2022.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        encoder: Encoder,
        conditioner: Conditioner,
        unet: UNet2DConditionModel,
        schedule: NoiseSchedule,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.encoder = encoder
        self.conditioner = conditioner
        self.unet = unet
        self.schedule = schedule

    def feature_channels(self, up_blocks: Sequence[int]) -> tuple[int, ...]:
        """Return how many channels each tapped block gives."""
        widths = list(reversed(self.unet.config.block_out_channels))
        return tuple(widths[block] for block in up_blocks)


class FeatureExtractor(nn.Module):
    """Features of image patches: what the U-Net's decoder knows of them at one timestep."""

    def __init__(
        self, backbone: Backbone, timestep: int, up_blocks: Sequence[int], noise_seed: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.timestep = timestep
        self.up_blocks = tuple(up_blocks)
        self.noise_seed = noise_seed

    def forward(self, tiles: Tensor, origins_m: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Return each tapped block's activations, float [B, C_i, h_i, w_i].

        `tiles` is uint8 [B, H, W, 3] at the model's resolution; `origins_m` are their corners
        (x, y) on the slide in model pixels, which place them in the noise field.
        """
        pixels = to_signed(tiles)
        tokens = self.backbone.conditioner(self.backbone.encoder(pixels))
        noised = self._noised(self.backbone.autoencoder(pixels), origins_m)
        with tapped(self.backbone.unet, self.up_blocks) as taken:
            self.backbone.unet(noised, self.timestep, encoder_hidden_states=tokens)
        return [taken[block] for block in self.up_blocks]

    def _noised(self, latent: Tensor, origins_m: Sequence[tuple[int, int]]) -> Tensor:
        factor = self.backbone.autoencoder.factor
        origins = [(x // factor, y // factor) for x, y in origins_m]
        _, channels, height, width = latent.shape
        noise = noise_field(self.noise_seed, self.timestep, origins, (channels, height, width))
        signal_weight, noise_weight = self.backbone.schedule.mix(self.timestep)
        return signal_weight * latent + noise_weight * torch.from_numpy(noise).to(latent)


@contextmanager
def tapped(unet: UNet2DConditionModel, up_blocks: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collect the outputs of decoder blocks during one forward pass; the hooks are removed."""
    taken: dict[int, Tensor] = {}

    def hook_of(block: int):  # type: ignore[no-untyped-def]
        def keep(module: nn.Module, args: object, output: Tensor) -> None:
            taken[block] = output

        return keep

    hooks = [unet.up_blocks[b].register_forward_hook(hook_of(b)) for b in up_blocks]
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()
