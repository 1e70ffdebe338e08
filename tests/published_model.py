"""A model of the published architecture with random weights: 400 M parameters in its U-Net."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import VQModel
from tiny_models import CLASSES, tiny_card
from transformers import ViTConfig, ViTModel

from model.autoencoder import Autoencoder
from model.card import FeatureSpec, HeadCard, ModelCard
from model.compvis_unet import UNetShape
from model.device import choose_dtype
from model.encoder import Conditioner, Encoder
from model.features import Backbone, FeatureExtractor
from model.head import Head
from model.schedule import NoiseSchedule
from model.segmenter import Segmenter
from qupath_bridge.demo.drawing import draw_slide

TILE_M = 256
FEATURES = FeatureSpec(timesteps=(50,), up_blocks=(1, 2, 3))
WIDTH = 48


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


def published_segmenter(device: torch.device, precision: str = "auto") -> Segmenter:
    """Return such a model on a device, with a random head that finds every class."""
    card = published_card()
    extractor = FeatureExtractor(published_backbone(), card.features).eval()
    torch.manual_seed(1)
    head = Head(extractor.channels, len(CLASSES), WIDTH).eval().requires_grad_(False)
    head.classify.weight.mul_(20)
    dtype = choose_dtype(precision, device)
    segmenter = Segmenter(card, extractor, {"tissue": head}, device, dtype)
    pixels = draw_slide(3, TILE_M, TILE_M, coverage=1.0).pixels
    found = segmenter.probabilities(pixels[None], [(0, 0)])["tissue"]
    usual = np.log(np.maximum(found, 1e-30)).mean(axis=(0, 2, 3))
    head.classify.bias.sub_(torch.from_numpy(usual).to(head.classify.bias))
    return segmenter


def load_published(folder: Path, heads: object, device: str) -> Segmenter:
    """Return such a model as an engine's `load` does, whatever folder and heads are named."""
    return published_segmenter(torch.device(device))
