"""The recipe of the shipped model: everything from pixels to `model/default/`.

    python projects/default_model.py --tiles FOLDER --work FOLDER [--size small|tiny]

FOLDER holds the open tiles `tcga_coad/`, `tnbc/` and `nct_crc/<CLASS>/`; slides of the demo's kind
are drawn on the spot. Each stage is kept in the work folder and not repeated.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from default_data import (
    FIRST_HELD_OUT_SEED,
    FIRST_SEED,
    TILE_M,
    Mixture,
    demo_tiles,
    drawn_slides,
    gland_codes,
    nct_tiles,
    read_images,
)
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTModel

from model.autoencoder import Autoencoder
from model.card import DEFAULT_MODEL, FeatureSpec, HeadCard, HeadClass, ModelCard
from model.encoder import Conditioner, Encoder
from model.features import Backbone, FeatureExtractor
from model.head import Head
from model.pretrain import Budget, train_autoencoder, train_denoiser, train_encoder
from model.schedule import NoiseSchedule
from model.train import CachedFeatures, HeadTraining, train_head
from model.weights import save_backbone, save_head, seal
from qupath_bridge.demo.drawing import DemoSlide

FEATURES = FeatureSpec(timesteps=(50,), up_blocks=(0, 1, 2))

TISSUE = (
    HeadClass("Background", (255, 255, 255), detections=False),
    HeadClass("Tumor", (200, 0, 0)),
    HeadClass("Stroma", (150, 200, 150)),
    HeadClass("Immune cells", (160, 90, 160)),
    HeadClass("Necrosis", (50, 50, 50)),
    HeadClass("Other", (255, 200, 0)),
)
GLANDS = (
    HeadClass("Background", (255, 255, 255), detections=False),
    HeadClass("Gland", (0, 120, 200)),
)
HEADS = {"tissue": TISSUE, "glands": GLANDS}
DESCRIPTIONS = {
    "tissue": "Tissue; a normal gland, lumen included, is Other. Scores: Dice, drawn slides.",
    "glands": "Normal glands, lumen included. Scores: Dice, drawn slides.",
}


@dataclass(frozen=True)
class Size:
    """How much work goes into each stage."""

    demo_slides: int
    held_out_slides: int
    autoencoder: Budget
    encoder: Budget
    denoiser: tuple[Budget, ...]
    tiles_per_slide: int
    head: HeadTraining


SIZES = {
    "tiny": Size(
        4,
        1,
        Budget(3, 4, 64, 1e-3),
        Budget(3, 8, 64, 1e-3),
        (Budget(3, 4, 64, 1e-3),),
        1,
        HeadTraining(steps=3, batch=4),
    ),
    "small": Size(
        160,
        24,
        Budget(900, 16, 96, 2e-3),
        Budget(400, 64, 128, 1e-3),
        (Budget(1200, 32, 128, 1e-3), Budget(200, 12, 256, 3e-4)),
        7,
        HeadTraining(steps=600, batch=16),
    ),
}


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
    torch.save(network.state_dict(), path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def train_backbone(size: Size, real: Mixture, source: Mixture, work: Path) -> Backbone:
    """Return the backbone, trained in three stages: the autoencoder on real tissue alone."""
    torch.manual_seed(0)
    network, encoder, unet = new_autoencoder(), new_encoder(), new_unet()
    conditioner, schedule = Conditioner(encoder.width, 128), NoiseSchedule()
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
    return Backbone(autoencoder, encoder, conditioner, unet, schedule).eval()


def _run(function: Callable[..., object], *arguments: object) -> None:
    function(*arguments)


def train_heads(
    size: Size, slides: list[DemoSlide], tiles: Path, extractor: FeatureExtractor, work: Path
) -> dict[str, Head]:
    """Return the heads, trained on drawn slides and weakly labelled tiles."""
    drawn = demo_tiles(slides, size.tiles_per_slide)
    weak = nct_tiles(tiles / "nct_crc")
    cache = work / "features.safetensors"
    if not cache.exists():
        CachedFeatures(extractor, [tile for tile, _ in drawn] + weak).save(cache)
    codes = {
        "tissue": [tile.codes for tile, _ in drawn] + [tile.codes for tile in weak],
        "glands": [glands for _, glands in drawn] + [gland_codes(tile) for tile in weak],
    }
    channels = extractor.backbone.feature_channels(FEATURES)
    heads = {}
    for name, classes in HEADS.items():
        heads[name] = Head(channels, len(classes), size.head.width)

        def train(name: str = name) -> None:
            features = CachedFeatures.load(cache)
            trained = train_head(features, codes[name], len(HEADS[name]), size.head)
            heads[name].load_state_dict(trained.state_dict())

        stage(work, f"head-{name}", heads[name], train)
    return heads


def scores_of(
    extractor: FeatureExtractor, heads: dict[str, Head], slides: list[DemoSlide]
) -> dict[str, dict[str, float]]:
    """Return each head's Dice per class, pooled over slides drawn for this alone."""
    counts = {name: np.zeros((len(HEADS[name]),) * 2, np.int64) for name in heads}
    for tile, glands in demo_tiles(slides, per_slide=2):
        with torch.inference_mode():
            features = extractor(torch.from_numpy(tile.pixels)[None], [tile.origin_m])
            for name, truth in (("tissue", tile.codes), ("glands", glands)):
                logits = heads[name](features)
                found = F.interpolate(logits, size=truth.shape, mode="bilinear").argmax(dim=1)[0]
                np.add.at(counts[name], (truth, found.numpy()), 1)
    return {name: _dice(counts[name], HEADS[name]) for name in heads}


def _dice(counts: np.ndarray, classes: tuple[HeadClass, ...]) -> dict[str, float]:
    """Return Dice per class from pixel counts [truth, found]."""
    either = counts.sum(axis=0) + counts.sum(axis=1)
    dice = 2 * counts.diagonal() / np.maximum(either, 1)
    return {kind.name: round(float(value), 3) for kind, value in zip(classes, dice, strict=True)}


def card_of(
    size_name: str, size: Size, heads: dict[str, Head], scores: dict[str, dict[str, float]]
) -> ModelCard:
    return ModelCard(
        name="default",
        version="0.1.0",
        description=(
            "A small latent diffusion model of H&E tissue at 0.5 um/px with a self-supervised ViT"
            " as its condition, and heads trained on drawn slides and a few open tiles."
        ),
        intended_use=(
            "For demonstration and as a base for training one's own heads. Not for diagnosis: its"
            " heads have seen drawn tissue and 84 weakly labelled real tiles, nothing else."
        ),
        licence="CC-BY-4.0",
        mpp=0.5,
        tile_m=TILE_M,
        margin_m=16,
        cell_m=2,
        features=FEATURES,
        schedule={"beta_start": 0.0015, "beta_end": 0.0195, "timesteps": 1000},
        heads={
            name: HeadCard(
                HEADS[name], head.feature_channels, head.width, DESCRIPTIONS[name], scores[name]
            )
            for name, head in heads.items()
        },
        files={},
        training={
            "recipe": f"projects/default_model.py --size {size_name}",
            "date": datetime.date.today().isoformat(),
            "stages": repr(size),
            "data": {
                "drawn slides": f"{size.demo_slides} of 768 px, exact truth",
                "TCGA-AA-3562 (colon, TCGA open access)": "689 tiles of 256 px, no labels used",
                "Naylor et al., breast, CC BY 4.0": "50 images, no labels used",
                "NCT-CRC-HE-100K, Kather et al., CC BY 4.0": "108 tiles, labels of 84 used",
            },
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--out", type=Path, default=DEFAULT_MODEL)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    build(SIZES[arguments.size], arguments)


def build(size: Size, arguments: argparse.Namespace) -> None:
    """Train what the work folder does not hold yet, and put the model together."""
    work, tiles = arguments.work, arguments.tiles
    slides = drawn_slides(FIRST_SEED, size.demo_slides, work)
    kinds = sorted(folder for folder in (tiles / "nct_crc").iterdir() if folder.is_dir())
    real = [
        (0.25, read_images(tiles / "tcga_coad", 0.5)),
        (0.15, read_images(tiles / "tnbc", 0.25)),
        (0.15, [image for kind in kinds for image in read_images(kind, 0.5)]),
    ]
    drawn = [(0.45, [slide.pixels for slide in slides])]
    backbone = train_backbone(size, Mixture(real), Mixture(drawn + real), work)
    extractor = FeatureExtractor(backbone, FEATURES).eval()
    heads = train_heads(size, slides, tiles, extractor, work)
    held_out = drawn_slides(FIRST_HELD_OUT_SEED, size.held_out_slides, work)
    scores = scores_of(extractor, heads, held_out)
    save_backbone(work / "model", backbone)
    for name, head in heads.items():
        save_head(work / "model", name, head)
    seal(work / "model", card_of(arguments.size, size, heads, scores))
    shutil.rmtree(arguments.out, ignore_errors=True)
    shutil.copytree(work / "model", arguments.out)
    print(f"wrote {arguments.out}; held-out Dice: {scores}", file=sys.stderr)


if __name__ == "__main__":
    main()
