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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch import nn
from transformers import ViTConfig, ViTModel

from model.autoencoder import Autoencoder
from model.card import DEFAULT_MODEL, HeadCard, HeadClass, ModelCard
from model.encoder import Conditioner, Encoder
from model.features import Backbone, FeatureExtractor
from model.head import Head
from model.pretrain import Budget, train_autoencoder, train_denoiser, train_encoder
from model.schedule import NoiseSchedule
from model.train import IGNORED, CachedFeatures, HeadTraining, LabelledTile, train_head
from model.weights import head_card_of, save_backbone, save_head, seal
from qupath_bridge.demo.drawing import DemoSlide, draw_slide

TILE_M = 256
TIMESTEP = 50
UP_BLOCKS = (0, 1, 2)
NOISE_SEED = 2504
FIRST_SEED = 1_000_000  # far from the seeds that people give the demo

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
# NCT-CRC-HE-100K labels whole tiles; ADI and MUC have no counterpart among the tissue classes.
NCT_TISSUE = {"BACK": 0, "TUM": 1, "STR": 2, "MUS": 2, "LYM": 3, "DEB": 4, "NORM": 5}
NCT_NOT_GLAND = ("ADI", "BACK", "DEB", "LYM", "MUS", "STR")


@dataclass(frozen=True)
class Size:
    """How much work goes into each stage."""

    demo_slides: int
    autoencoder: Budget
    encoder: Budget
    denoiser: tuple[Budget, ...]
    tiles_per_slide: int
    head: HeadTraining


SIZES = {
    "tiny": Size(
        4,
        Budget(3, 4, 64, 1e-3),
        Budget(3, 8, 64, 1e-3),
        (Budget(3, 4, 64, 1e-3),),
        1,
        HeadTraining(steps=3, batch=4),
    ),
    "small": Size(
        160,
        Budget(900, 16, 96, 2e-3),
        Budget(400, 64, 128, 1e-3),
        (Budget(1200, 32, 128, 1e-3), Budget(200, 12, 256, 3e-4)),
        7,
        HeadTraining(steps=600, batch=16),
    ),
}


class Mixture:
    """Patches from several groups of images, each group with its share."""

    def __init__(self, groups: list[tuple[float, list[np.ndarray]]]) -> None:
        shares = np.array([share for share, _ in groups])
        self._shares = shares / shares.sum()
        self._groups = [images for _, images in groups]

    def sample(self, rng: np.random.Generator, count: int, side_m: int) -> np.ndarray:
        """Return patches, uint8 [count, side_m, side_m, 3], turned and mirrored at random."""
        out = np.empty((count, side_m, side_m, 3), np.uint8)
        for patch in out:
            images = self._groups[rng.choice(len(self._groups), p=self._shares)]
            image = _at_least(images[rng.integers(len(images))], side_m)
            y, x = (rng.integers(n - side_m + 1) for n in image.shape[:2])
            crop = np.rot90(image[y : y + side_m, x : x + side_m], rng.integers(4))
            patch[:] = crop[:, ::-1] if rng.integers(2) else crop
        return out


def _at_least(image: np.ndarray, side_m: int) -> np.ndarray:
    short = [max(0, side_m - n) for n in image.shape[:2]]
    if not any(short):
        return image
    return np.pad(image, ((0, short[0]), (0, short[1]), (0, 0)), mode="reflect")


def read_images(folder: Path, mpp: float) -> list[np.ndarray]:
    """Return all pictures of a folder at 0.5 um/px, uint8 [H, W, 3]."""
    images = []
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png", ".tif")):
        with Image.open(path) as picture:
            size = [round(side * mpp / 0.5) for side in picture.size]
            rgb = picture.convert("RGB")
            images.append(np.asarray(rgb.resize(size, Image.Resampling.BOX)))
    return images


def nct_tiles(folder: Path, codes_of: Callable[[str], int | None]) -> list[LabelledTile]:
    """Return weakly labelled tiles: a tile's class on all of it but white holes and the rim."""
    tiles = []
    for kind in sorted(p.name for p in folder.iterdir() if p.is_dir()):
        code = codes_of(kind)
        for image in read_images(folder / kind, 0.5) if code is not None else ():
            padded = _at_least(image, TILE_M)
            codes = np.full(padded.shape[:2], IGNORED, np.uint8)
            codes[: image.shape[0], : image.shape[1]] = code
            if kind != "BACK":
                codes[padded.min(axis=2) > 215] = IGNORED
            tiles.append(LabelledTile(padded, codes))
    return tiles


def demo_tiles(slides: list[DemoSlide], per_slide: int, plane: str) -> list[LabelledTile]:
    """Return crops of drawn slides with their exact truth, `plane` "tissue" or "glands"."""
    rng = np.random.default_rng(11)
    tiles = []
    for slide in slides:
        for _ in range(per_slide):
            y, x = (int(rng.integers(n - TILE_M + 1)) // 4 * 4 for n in slide.pixels.shape[:2])
            box = np.s_[y : y + TILE_M, x : x + TILE_M]
            tiles.append(LabelledTile(slide.pixels[box], getattr(slide, plane)[box], (x, y)))
    return tiles


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
) -> dict[str, tuple[Head, HeadCard]]:
    """Return the heads and their cards, trained on drawn slides and weakly labelled tiles."""
    drawn = demo_tiles(slides, size.tiles_per_slide, "tissue")
    glands = [t.codes for t in demo_tiles(slides, size.tiles_per_slide, "glands")]
    weak = nct_tiles(tiles / "nct_crc", NCT_TISSUE.get)
    weak_glands = [
        np.where(t.codes == IGNORED, IGNORED, 0).astype(np.uint8)
        if kind_is_not_gland(t)
        else np.full_like(t.codes, IGNORED)
        for t in weak
    ]
    cache = work / "features.safetensors"
    if not cache.exists():
        CachedFeatures(extractor, [*drawn, *weak]).save(cache)
    features = CachedFeatures.load(cache)
    tissue_codes = [t.codes for t in (*drawn, *weak)]
    tissue = train_head(features, tissue_codes, len(TISSUE), size.head)
    gland = train_head(features, [*glands, *weak_glands], len(GLANDS), size.head)
    return {
        "tissue": (tissue, HeadCard(TISSUE, (), 0, "tissue classes")),
        "glands": (gland, HeadCard(GLANDS, (), 0, "normal glands, lumen included")),
    }


def kind_is_not_gland(tile: LabelledTile) -> bool:
    """Return whether a weakly labelled tile is of a tissue class in which no gland lies."""
    codes = tile.codes[tile.codes != IGNORED]
    allowed = {NCT_TISSUE[k] for k in NCT_NOT_GLAND if k in NCT_TISSUE}
    return codes.size > 0 and int(codes[0]) in allowed


def card_of(size_name: str, size: Size, heads: dict[str, tuple[Head, HeadCard]]) -> ModelCard:
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
        timestep=TIMESTEP,
        up_blocks=UP_BLOCKS,
        noise_seed=NOISE_SEED,
        schedule={"beta_start": 0.0015, "beta_end": 0.0195, "timesteps": 1000},
        heads={name: head_card_of(head, card) for name, (head, card) in heads.items()},
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


def drawn_slides(count: int, work: Path) -> list[DemoSlide]:
    """Return drawn slides of 768 px, kept in the work folder."""
    with ProcessPoolExecutor(2) as pool:
        seeds = range(FIRST_SEED, FIRST_SEED + count)
        return list(pool.map(partial(_drawn_slide, work=work), seeds))


def _drawn_slide(seed: int, work: Path) -> DemoSlide:
    path = work / f"slide-{seed}.npz"
    if not path.exists():
        slide = draw_slide(seed, 768, 768)
        planes = {"pixels": slide.pixels, "tissue": slide.tissue, "glands": slide.glands}
        np.savez(path.with_suffix(".part.npz"), **planes)
        path.with_suffix(".part.npz").replace(path)
    with np.load(path) as planes:
        return DemoSlide(**planes)


def build(size: Size, arguments: argparse.Namespace) -> None:
    slides = drawn_slides(size.demo_slides, arguments.work)
    nct = [
        image
        for kind in sorted((arguments.tiles / "nct_crc").iterdir())
        for image in read_images(kind, 0.5)
    ]
    real = [
        (0.25, read_images(arguments.tiles / "tcga_coad", 0.5)),
        (0.15, read_images(arguments.tiles / "tnbc", 0.25)),
        (0.15, nct),
    ]
    drawn = [(0.45, [slide.pixels for slide in slides])]
    backbone = train_backbone(size, Mixture(real), Mixture(drawn + real), arguments.work)
    save_backbone(arguments.work / "model", backbone)
    extractor = FeatureExtractor(backbone, TIMESTEP, UP_BLOCKS, NOISE_SEED).eval()
    heads = train_heads(size, slides, arguments.tiles, extractor, arguments.work)
    for name, (head, _) in heads.items():
        save_head(arguments.work / "model", name, head)
    seal(arguments.work / "model", card_of(arguments.size, size, heads))
    shutil.rmtree(arguments.out, ignore_errors=True)
    shutil.copytree(arguments.work / "model", arguments.out)
    print(f"wrote {arguments.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
