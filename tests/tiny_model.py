"""A model folder of the smallest networks that fit together, with weights drawn at random."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import ViTConfig, ViTModel

from model.autoencoder import Autoencoder
from model.card import FeatureSpec, HeadCard, HeadClass, ModelCard
from model.encoder import Conditioner, Encoder
from model.features import Backbone
from model.head import Head
from model.schedule import NoiseSchedule
from model.weights import save_backbone, save_head, seal

TILE_M = 32
CLASSES = (HeadClass("Tumor", (200, 0, 0)), HeadClass("Stroma", (150, 200, 150)))
SCHEDULE = {"beta_start": 0.0015, "beta_end": 0.0195, "timesteps": 1000}


def tiny_backbone() -> Backbone:
    """Return a backbone for patches of 32 px with latents of 16."""
    torch.manual_seed(0)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )
    vit = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=TILE_M,
        patch_size=8,
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    encoder = Encoder(ViTModel(vit, add_pooling_layer=False))
    parts = (Autoencoder(autoencoder), encoder, Conditioner(16, 8), unet)
    return Backbone(*parts, NoiseSchedule(**SCHEDULE)).eval()


def write_tiny_model(folder: Path, heads: tuple[str, ...] = ("tissue", "glands")) -> ModelCard:
    """Write a model of 0.5 um/px with these heads, of two classes each; return its card."""
    backbone, spec = tiny_backbone(), FeatureSpec(up_blocks=(1,))
    channels = backbone.feature_channels(spec)
    save_backbone(folder, backbone)
    for name in heads:
        head = Head(channels, len(CLASSES), 8)
        head.classify.weight.data *= 20  # or it would be as unsure everywhere
        save_head(folder, name, head)
    card = ModelCard(
        name="tiny",
        version="1",
        description="",
        intended_use="",
        licence="",
        mpp=0.5,
        tile_m=TILE_M,
        margin_m=4,
        cell_m=1,
        features=spec,
        schedule=SCHEDULE,
        heads={name: HeadCard(CLASSES, channels, 8) for name in heads},
        files={},
    )
    return seal(folder, card)
