"""Diffusion features: one noised forward pass, the activations of chosen decoder blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from model.autoencoder import Autoencoder, to_signed
from model.card import FeatureSpec
from model.encoder import Conditioner, Encoder
from model.errors import ModelError
from model.patches import Patch
from model.schedule import NoiseSchedule, noise_field
from model.stem import Stem


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
        stem: Stem | None = None,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.encoder = encoder
        self.conditioner = conditioner
        self.unet = unet
        self.schedule = schedule
        self.stem = stem

    def feature_channels(self, spec: FeatureSpec) -> tuple[int, ...]:
        """Return how many channels each map of features has."""
        widths = list(reversed(self.unet.config.block_out_channels))
        times = len(spec.timesteps) if spec.joined else 1
        stem = self.stem.channels if self.stem is not None and spec.stem is not None else ()
        return (*(times * widths[block] for block in spec.up_blocks), *stem)


class FeatureExtractor(nn.Module):
    """Features of image patches: what the U-Net's decoder, and the stem, know of them."""

    def __init__(self, backbone: Backbone, spec: FeatureSpec) -> None:
        super().__init__()
        self.backbone = backbone
        self.spec = spec

    @property
    def channels(self) -> tuple[int, ...]:
        """Return how many channels each map of features has."""
        return self.backbone.feature_channels(self.spec)

    def forward(self, tiles: Tensor, origins_m: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Return each tapped block's activations and the stem's maps, float [B, C_i, h_i, w_i].

        `tiles` is uint8 [B, H, W, 3] at the model's resolution; `origins_m` are their corners
        (x, y) on the slide in model pixels, which place them in the noise field.
        """
        stem = self.backbone.stem if self.spec.stem is not None else None
        return [*self._of_diffusion(tiles, origins_m), *(stem(tiles) if stem is not None else ())]

    def _of_diffusion(self, tiles: Tensor, origins_m: Sequence[tuple[int, int]]) -> list[Tensor]:
        if not self.spec.up_blocks:
            return []
        pixels = to_signed(tiles)
        tokens = self._tokens(pixels)
        latent = self.backbone.autoencoder(pixels)
        passes = [self._activations(latent, t, origins_m, tokens) for t in self.spec.timesteps]
        return [self._combined(list(maps)) for maps in zip(*passes, strict=True)]

    def _tokens(self, pixels: Tensor) -> Tensor:
        if self.spec.conditioned:
            return self.backbone.conditioner(self.backbone.encoder(pixels))
        nothing = pixels.new_zeros(len(pixels), self.backbone.encoder.width)
        return self.backbone.conditioner(nothing)

    def _activations(
        self, latent: Tensor, timestep: int, origins_m: Sequence[tuple[int, int]], tokens: Tensor
    ) -> list[Tensor]:
        noised = self._noised(latent, timestep, origins_m)
        with tapped(self.backbone.unet, self.spec.up_blocks) as taken:
            self.backbone.unet(noised, timestep, encoder_hidden_states=tokens)
        return [taken[block] for block in self.spec.up_blocks]

    def _combined(self, maps: list[Tensor]) -> Tensor:
        if len(maps) == 1:
            return maps[0]
        return torch.cat(maps, dim=1) if self.spec.joined else torch.stack(maps).mean(dim=0)

    def _noised(
        self, latent: Tensor, timestep: int, origins_m: Sequence[tuple[int, int]]
    ) -> Tensor:
        factor = self.backbone.autoencoder.factor
        origins = [(x // factor, y // factor) for x, y in origins_m]
        _, channels, height, width = latent.shape
        shape = (channels, height, width)
        noise = noise_field(self.spec.noise_seed, timestep, origins, shape)
        signal_weight, noise_weight = self.backbone.schedule.mix(timestep)
        return signal_weight * latent + noise_weight * torch.from_numpy(noise).to(latent)


def check_features(spec: FeatureSpec, backbone: Backbone) -> None:
    """Check that a model can give these features.

    Raises:
        ModelError: a block or timestep does not exist, or nothing at all is chosen.
    """
    blocks, times = len(backbone.unet.up_blocks), backbone.schedule.timesteps
    wrong = [b for b in spec.up_blocks if not 0 <= b < blocks]
    late = [t for t in spec.timesteps if not 0 <= t < times]
    if wrong or late or not spec.timesteps:
        raise ModelError(
            f"the model has decoder blocks 0 to {blocks - 1} and timesteps 0 to {times - 1};"
            f" got blocks {wrong or list(spec.up_blocks)}, timesteps {late or list(spec.timesteps)}"
        )
    if not spec.up_blocks and spec.stem is None:
        raise ModelError("a head needs features: name a decoder block, or keep the stem")


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


@torch.inference_mode()
def tensors_of(
    extractor: FeatureExtractor, patches: Sequence[Patch], batch: int = 4
) -> dict[str, Tensor]:
    """Return what a feature file holds: maps by number, and embeddings."""
    device = next(extractor.parameters()).device
    passes: list[list[Tensor]] = []
    embeddings: list[Tensor] = []
    for start in range(0, len(patches), batch):
        some = patches[start : start + batch]
        pixels = torch.from_numpy(np.stack([p.pixels for p in some])).to(device)
        maps = extractor(pixels, [p.origin_m for p in some])
        passes.append([m.half().cpu() for m in maps])
        embeddings.append(extractor.backbone.encoder(to_signed(pixels)).half().cpu())
    joined = [torch.cat(maps).contiguous() for maps in zip(*passes, strict=True)]
    return {
        **{str(i): maps for i, maps in enumerate(joined)},
        "embeddings": torch.cat(embeddings),
    }
