"""Diffusion features: one noised forward pass, the activations of chosen decoder blocks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

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
from model.trunk import decoder_maps


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

    timesteps: Tensor

    def __init__(self, backbone: Backbone, spec: FeatureSpec) -> None:
        super().__init__()
        self.backbone = backbone
        self.spec = spec
        self.reads_embedding = spec.conditioned and backbone.conditioner.reads_embedding
        self.register_buffer("timesteps", torch.tensor(spec.timesteps), persistent=False)

    @property
    def channels(self) -> tuple[int, ...]:
        """Return how many channels each map of features has."""
        return self.backbone.feature_channels(self.spec)

    @property
    def dtype(self) -> torch.dtype:
        """Return the type that the diffusion model computes in; its encoder's weights are float32.

        Noise is added in float32 whatever it is.
        """
        return self.backbone.unet.conv_in.weight.dtype

    def forward(self, tiles: Tensor, origins_m: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Return each tapped block's activations and the stem's maps, float [B, C_i, h_i, w_i].

        `tiles` is uint8 [B, H, W, 3] at the model's resolution; `origins_m` are their corners
        (x, y) on the slide in model pixels, which place them in the noise field.
        """
        noise = torch.from_numpy(self.noise(origins_m, *tiles.shape[1:3]))
        return self.maps(tiles, noise.to(tiles.device))

    def noise(
        self, origins_m: Sequence[tuple[int, int]], height_m: int, width_m: int
    ) -> np.ndarray:
        """Return the noise of patches, float32 [B, T, C, h, w], T being the timesteps in use."""
        autoencoder, spec = self.backbone.autoencoder, self.spec
        factor = autoencoder.factor
        origins = [(x // factor, y // factor) for x, y in origins_m]
        shape = (autoencoder.channels, height_m // factor, width_m // factor)
        times = spec.timesteps if spec.up_blocks else ()
        fields = [noise_field(spec.noise_seed, t, origins, shape) for t in times]
        return np.stack(fields, 1) if fields else np.empty((len(origins), 0, *shape), np.float32)

    def maps(self, tiles: Tensor, noise: Tensor) -> list[Tensor]:
        """Return what `forward` does, of tiles and their noise on the same device.

        Nothing here depends on numbers or waits for the device, so it can be captured as a graph.
        """
        stem = self.backbone.stem if self.spec.stem is not None else None
        return [*self._of_diffusion(tiles, noise), *(stem(tiles) if stem is not None else ())]

    def _of_diffusion(self, tiles: Tensor, noise: Tensor) -> list[Tensor]:
        if not self.spec.up_blocks:
            return []
        pixels = to_signed(tiles)
        tokens = self._tokens(pixels).to(self.dtype)
        latent = self.backbone.autoencoder(pixels.to(self.dtype))
        passes = [
            self._activations(latent, noise[:, index], index, tokens)
            for index in range(len(self.spec.timesteps))
        ]
        return [self._combined(list(maps)) for maps in zip(*passes, strict=True)]

    def _tokens(self, pixels: Tensor) -> Tensor:
        encoder = self.backbone.encoder
        if self.reads_embedding:
            with self._in_dtype(pixels.device.type):
                embedding = encoder(pixels)
            return self.backbone.conditioner(embedding.float())
        return self.backbone.conditioner(pixels.new_zeros(len(pixels), encoder.width))

    def _in_dtype(self, device_type: str) -> AbstractContextManager[object]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device_type, self.dtype, cache_enabled=False)

    def _activations(
        self, latent: Tensor, noise: Tensor, index: int, tokens: Tensor
    ) -> list[Tensor]:
        noised = self._noised(latent, noise, self.spec.timesteps[index])
        unet, blocks = self.backbone.unet, self.spec.up_blocks
        return decoder_maps(unet, noised, self.timesteps[index], tokens, blocks)

    def _combined(self, maps: list[Tensor]) -> Tensor:
        if len(maps) == 1:
            return maps[0]
        return torch.cat(maps, dim=1) if self.spec.joined else torch.stack(maps).mean(dim=0)

    def _noised(self, latent: Tensor, noise: Tensor, timestep: int) -> Tensor:
        signal_weight, noise_weight = self.backbone.schedule.mix(timestep)
        return (signal_weight * latent.float() + noise_weight * noise).to(latent.dtype)


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
