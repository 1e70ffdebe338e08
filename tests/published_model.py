"""A model of the published architecture with random weights: 400 M parameters in its U-Net."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import VQModel
from tiny_models import tiny_card
from torch.nn.functional import cross_entropy
from transformers import ViTConfig, ViTModel

from model.autoencoder import Autoencoder
from model.card import FeatureSpec, HeadCard, HeadClass, ModelCard
from model.compvis_unet import UNetShape
from model.device import choose_dtype
from model.encoder import Conditioner, Encoder
from model.features import Backbone, FeatureExtractor
from model.head import Head
from model.schedule import NoiseSchedule
from model.segmenter import Segmenter
from qupath_bridge.demo.drawing import TISSUE_CLASSES, draw_slide

TILE_M = 256
FEATURES = FeatureSpec(timesteps=(50,), up_blocks=(1, 2, 3))
WIDTH = 48
CLASSES = tuple(HeadClass(name, (40 * i, 0, 0)) for i, name in enumerate(TISSUE_CLASSES))
LESSONS = 60


def published_backbone(seed: int = 0) -> Backbone:
    """Return networks of the published sizes; activations neither vanish nor grow."""
    torch.manual_seed(seed)
    vq = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(128, 256, 512),
        layers_per_block=2,
        latent_channels=3,
        sample_size=TILE_M,
        num_vq_embeddings=8192,
        vq_embed_dim=3,
        norm_num_groups=32,
        scaling_factor=1.0,
    )
    unet = UNetShape(
        channels_in=3,
        channels_out=3,
        widths=(192, 384, 576, 960),
        attention=(False, True, True, True),
        blocks=2,
        depth=1,
        context=512,
        heads=(1, 1, 1, 1),
    ).network()
    vit = ViTConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=1536,
        image_size=TILE_M,
        patch_size=16,
        layer_norm_eps=1e-6,
    )
    encoder = Encoder(ViTModel(vit, add_pooling_layer=False))
    conditioner = Conditioner(384, 512, 768)
    backbone = Backbone(Autoencoder(vq), encoder, conditioner, unet, NoiseSchedule())
    return backbone.eval().requires_grad_(False)


def published_card(features: FeatureSpec = FEATURES) -> ModelCard:
    """Return the card of such a model with one head, "tissue"; it lies in no folder."""
    widths = (960, 576, 384, 192)
    channels = tuple(widths[block] for block in features.up_blocks)
    head = HeadCard(CLASSES, channels, WIDTH)
    card = replace(tiny_card("published"), tile_m=TILE_M, margin_m=32, features=features)
    return replace(card, heads={"tissue": head})


def published_segmenter(
    device: torch.device, precision: str = "auto", taught: bool = True
) -> Segmenter:
    """Return such a model on a device; its head, if taught, tells drawn tissues apart."""
    card = published_card()
    extractor = FeatureExtractor(published_backbone(), card.features).eval().to(device)
    torch.manual_seed(1)
    head = Head(extractor.channels, len(CLASSES), WIDTH).to(device)
    if taught:
        teach(head, extractor, device)
    head.eval().requires_grad_(False)
    dtype = choose_dtype(precision, device)
    return Segmenter(card, extractor, {"tissue": head}, device, dtype)


def teach(head: Head, extractor: FeatureExtractor, device: torch.device) -> None:
    """Let a head learn tissues of a drawn slide: a head by chance is nowhere sure of a class."""
    drawn = draw_slide(3, 512, 512, coverage=1.0)
    corners = [(x, y) for y in (0, 256) for x in (0, 256)]
    windows = [np.s_[y : y + TILE_M, x : x + TILE_M] for x, y in corners]
    tiles = torch.from_numpy(np.stack([drawn.pixels[w] for w in windows])).to(device)
    truth = torch.from_numpy(np.stack([drawn.tissue[w][::2, ::2] for w in windows])).to(device)
    with torch.no_grad():
        features = extractor(tiles, corners)
    learner = torch.optim.Adam(head.train().parameters(), 3e-3)
    for _ in range(LESSONS):
        learner.zero_grad()
        cross_entropy(head(features), truth.long()).backward()
        learner.step()


def load_published(folder: Path, heads: object, device: str) -> Segmenter:
    """Return such a model as an engine's `load` does, whatever folder and heads are named."""
    return published_segmenter(torch.device(device))
