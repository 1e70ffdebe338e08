"""A model folder with random tiny networks: everything is there, and everything is quick."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import ViTConfig, ViTModel

from model.autoencoder import Autoencoder
from model.card import FeatureSpec, HeadCard, HeadClass, ModelCard, write_card
from model.encoder import Conditioner, Encoder
from model.features import Backbone
from model.head import Head
from model.labels import LabelledImage, LabelledPixels, LabelSet
from model.schedule import NoiseSchedule
from model.stem import Stem, StemPlan
from model.weights import save_backbone, save_head, seal

TILE_M = 64
STEM = StemPlan(shrink=4, layers=2, taps=(0, 1))
SPEC = FeatureSpec(timesteps=(50,), up_blocks=(0, 1, 2), stem=asdict(STEM))
CLASSES = (
    HeadClass("Background", (255, 255, 255), detections=False),
    HeadClass("Tumor", (200, 0, 0)),
    HeadClass("Stroma", (150, 200, 150)),
)
TEXTURES = (HeadClass("Plain", (0, 120, 200)), HeadClass("Dotted", (230, 120, 20)))
WIDTH = 16


def tiny_backbone(seed: int = 0) -> Backbone:
    """Return random networks: 64 px patches, latents of 16 px, three levels."""
    torch.manual_seed(seed)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=TILE_M,
    )
    vit = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=TILE_M,
        patch_size=16,
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16, 24),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    encoder = Encoder(ViTModel(vit, add_pooling_layer=False))
    parts = (Autoencoder(autoencoder), encoder, Conditioner(16, 12), unet, NoiseSchedule())
    return Backbone(*parts, Stem(STEM)).eval().requires_grad_(False)


def tiny_card(name: str = "tiny") -> ModelCard:
    return ModelCard(
        name=name,
        version="1",
        description="Random numbers.",
        intended_use="Tests. Not for diagnosis.",
        licence="CC0-1.0",
        mpp=0.5,
        tile_m=TILE_M,
        margin_m=8,
        cell_m=2,
        features=SPEC,
        schedule={"beta_start": 0.0015, "beta_end": 0.0195, "timesteps": 1000},
        heads={},
        files={},
    )


def write_tiny_model(
    folder: Path,
    name: str = "tiny",
    seed: int = 0,
    heads: tuple[str, ...] = ("first",),
    sharpness: float = 1.0,
) -> ModelCard:
    """Write a sealed model with these heads, of CLASSES each; return its card.

    sharpness: factor of the last layer; random heads of 1 are about as unsure everywhere.
    """
    backbone = tiny_backbone(seed)
    save_backbone(folder, backbone)
    channels = backbone.feature_channels(SPEC)
    for one in heads:
        head = Head(channels, len(CLASSES), WIDTH)
        head.classify.weight.data *= sharpness
        save_head(folder, one, head)
    sealed = seal(folder, tiny_card(name))
    card = HeadCard(CLASSES, channels, WIDTH, backbone=sealed.backbone)
    complete = replace(sealed, heads=dict.fromkeys(heads, card))
    write_card(folder, complete)
    return complete


def write_sure_model(folder: Path, heads: tuple[str, ...] = ("tissue", "glands")) -> ModelCard:
    """Write a tiny model whose heads are sure of what they say; return its card.

    With this seed both find many objects of two classes each, in tissue and in blobs.
    """
    return write_tiny_model(folder, seed=1, heads=heads, sharpness=60)


def halves(seed: int, side: int = 96) -> LabelledPixels:
    """Return stained dots on one half and plain pink on the other, turned by the seed."""
    rng = np.random.default_rng(seed)
    pixels = np.full((side, side, 3), (235, 180, 215), np.uint8)
    codes = np.zeros((side, side), np.uint8)
    dots = rng.random((side // 2, side)) < 0.35
    pixels[: side // 2][dots] = (70, 40, 120)
    codes[: side // 2] = 1
    pixels, codes = (np.rot90(plane, seed).copy() for plane in (pixels, codes))
    return LabelledPixels(pixels, codes)


def image_of(name: str, read: LabelledPixels, group: str | None = None) -> LabelledImage:
    return LabelledImage(name, name if group is None else group, lambda: read)


def two_textures(count: int = 4, side: int = 96) -> LabelSet:
    """Return images of plain and dotted halves, each a group of its own."""
    images = [image_of(f"image {n}", halves(n, side)) for n in range(count)]
    return LabelSet(TEXTURES, images, f"{count} drawn textures")
