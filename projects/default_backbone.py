"""The diffusion model of the shipped model: its networks, and their training in three stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from default_data import TILE_M, Mixture
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import ViTConfig, ViTModel

from model.autoencoder import Autoencoder
from model.device import choose_device
from model.encoder import Conditioner, Encoder
from model.features import Backbone
from model.pretrain import Budget, train_autoencoder, train_denoiser, train_encoder
from model.schedule import NoiseSchedule


@dataclass(frozen=True)
class BackboneSize:
    """How much work goes into each stage of the diffusion model."""

    autoencoder: Budget
    encoder: Budget
    denoiser: tuple[Budget, ...]


def new_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=TILE_M,
    )


def new_encoder() -> Encoder:
    config = ViTConfig(
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        image_size=128,
        patch_size=16,
        layer_norm_eps=1e-6,
    )
    return Encoder(ViTModel(config, add_pooling_layer=False))


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(48, 96, 192),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def stage(work: Path, name: str, network: nn.Module, train: Callable[[], None]) -> None:
    """Train a network, or fill it from the work folder where that was done before."""
    path = work / f"{name}.pt"
    if path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
        network.eval().requires_grad_(False)
        return
    train()
    network.eval().requires_grad_(False)
    torch.save(network.state_dict(), path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def train_backbone(size: BackboneSize, real: Mixture, source: Mixture, work: Path) -> Backbone:
    """Return the backbone, trained in three stages: the autoencoder on real tissue alone."""
    torch.manual_seed(0)
    network, encoder, unet = new_autoencoder(), new_encoder(), new_unet()
    conditioner, schedule = Conditioner(encoder.width, 128), NoiseSchedule()
    for part in (network, encoder, unet, conditioner):
        part.to(choose_device("auto"))
    scale = work / "scale.txt"

    def first() -> None:
        train_autoencoder(network, real, size.autoencoder, seed=1)
        scale.write_text(str(network.config.scaling_factor))

    stage(work, "autoencoder", network, first)
    network.register_to_config(scaling_factor=float(scale.read_text()))
    autoencoder = Autoencoder(network)
    stage(work, "encoder", encoder, lambda: _run(train_encoder, encoder, source, size.encoder, 2))
    both = nn.ModuleList([unet, conditioner])
    arguments = (unet, conditioner, autoencoder, encoder, schedule, source, list(size.denoiser), 3)
    stage(work, "denoiser", both, partial(train_denoiser, *arguments))
    return Backbone(autoencoder, encoder, conditioner, unet, schedule).eval().cpu()


def _run(function: Callable[..., object], *arguments: object) -> None:
    function(*arguments)
