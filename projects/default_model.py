"""The recipe of the shipped model: everything from pixels to `model/default/`.

    python projects/default_model.py --tiles FOLDER --work FOLDER [--size cpu|gpu|tiny]

FOLDER holds the open tiles `tcga_coad/`, `tnbc/` and `nct_crc/<CLASS>/`; slides of the demo's kind
are drawn on the spot. Each stage is kept in the work folder and not repeated. `--size cpu` takes
about two hours on two cores, `gpu` is meant for twenty minutes of a GPU. `--backbone DIR` takes the
diffusion model out of a model folder instead of training it. The pixel stem is not trained: its
weights are those of the model in `--stem` (default: the shipped one).
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from default_backbone import BackboneSize, stage, train_backbone
from default_data import (
    FIRST_HELD_OUT_SEED,
    FIRST_SEED,
    TILE_M,
    Mixture,
    crc_tiles,
    drawn_slides,
    read_images,
)
from default_heads import FEATURES, HeadSize, HeadWork, head_cards, head_lessons, head_tests

from model.cache import FeatureCache
from model.card import ModelCard, read_card, write_card
from model.features import Backbone, FeatureExtractor
from model.head import Head
from model.home import DEFAULT_MODEL
from model.lessons import HeadTraining
from model.novelty import save_embeddings
from model.pretrain import Budget
from model.stem import Stem, StemPlan
from model.weights import STEM_WEIGHTS, load_backbone, read_tensors, save_backbone, save_head, seal


@dataclass(frozen=True)
class Size:
    """How much work goes into each stage."""

    demo_slides: int
    held_out_slides: int
    backbone: BackboneSize
    heads: HeadSize


SIZES = {
    "tiny": Size(
        4,
        1,
        BackboneSize(
            Budget(3, 4, 64, 1e-3),
            Budget(3, 8, 64, 1e-3),
            (Budget(3, 4, 64, 1e-3),),
        ),
        HeadSize(1, 1, HeadTraining(steps=3, batch=4)),
    ),
    "cpu": Size(
        160,
        24,
        BackboneSize(
            Budget(900, 16, 96, 2e-3),
            Budget(400, 64, 128, 1e-3),
            (Budget(1200, 32, 128, 1e-3), Budget(200, 12, 256, 3e-4)),
        ),
        HeadSize(4, 5, HeadTraining(steps=600)),
    ),
    "gpu": Size(
        160,
        24,
        BackboneSize(
            Budget(6000, 32, 128, 2e-3),
            Budget(3000, 256, 128, 1e-3),
            (Budget(12_000, 128, 128, 1e-3), Budget(3000, 48, 256, 3e-4)),
        ),
        HeadSize(4, 5, HeadTraining(steps=600)),
    ),
}


BACKBONE_NOTES = ("recipe", "date", "stages")


def stem_from(folder: Path) -> Stem:
    """Return the stem with the weights of a model folder's."""
    stem = Stem(StemPlan())
    stem.load_state_dict(read_tensors(folder / STEM_WEIGHTS))
    return stem.eval().requires_grad_(False)


def card_of(backbone_made: dict[str, str]) -> ModelCard:
    """Return the model's card without its heads."""
    return ModelCard(
        name="default",
        version="0.2.0",
        description=(
            "A small latent diffusion model of H&E tissue at 0.5 um/px with a self-supervised ViT"
            " as its condition, the first 8 layers of VGG16 as a pixel stem (ours, not the"
            " paper's), and heads trained on drawn slides and a few open tiles."
        ),
        intended_use=(
            "For demonstration and as a base for training one's own heads. Not for diagnosis: its"
            " heads have seen drawn tissue and 81 weakly labelled real tiles, nothing else."
        ),
        licence="CC-BY-4.0; stem.safetensors: BSD-3-Clause (VGG16 as trained by torchvision)",
        mpp=0.5,
        tile_m=TILE_M,
        margin_m=16,
        cell_m=2,
        features=FEATURES,
        schedule={"beta_start": 0.0015, "beta_end": 0.0195, "timesteps": 1000},
        heads={},
        files={},
        training={
            **backbone_made,
            "heads date": datetime.date.today().isoformat(),
            "data": {
                "drawn slides": "768 px each, exact truth",
                "TCGA-AA-3562 (colon, TCGA open access)": "689 tiles of 256 px, no labels used",
                "Naylor et al., breast, CC BY 4.0": "50 images, no labels used",
                "NCT-CRC-HE-100K, Kather et al., CC BY 4.0": "108 tiles; labels of 81 used, 27"
                " held out",
                "ImageNet": "the stem, as VGG16 of torchvision, BSD-3-Clause; not trained here",
            },
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--backbone", type=Path, metavar="DIR")
    parser.add_argument("--stem", type=Path, metavar="DIR", default=DEFAULT_MODEL)
    parser.add_argument("--out", type=Path, default=DEFAULT_MODEL)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    build(SIZES[arguments.size], arguments)


def build(size: Size, arguments: argparse.Namespace) -> None:
    """Train what the work folder does not hold yet, and put the model together."""
    work = arguments.work
    slides = drawn_slides(FIRST_SEED, size.demo_slides, work)
    backbone, made = backbone_of(size, arguments, [slide.pixels for slide in slides])
    backbone.stem = stem_from(arguments.stem)
    folder = work / "model"
    shutil.rmtree(folder, ignore_errors=True)
    save_backbone(folder, backbone)
    card = seal(folder, card_of(made))
    tiles, held_out_tiles = crc_tiles(arguments.tiles / "nct_crc")
    # What was saved is what is trained on: rounded to float16.
    extractor = FeatureExtractor(load_backbone(folder, card), FEATURES).eval()
    trainer = HeadWork(extractor, card.backbone, FeatureCache(work / "cache", limit_gib=40))
    lessons = head_lessons(size.heads, slides, tiles)
    tests = head_tests(
        drawn_slides(FIRST_HELD_OUT_SEED, size.held_out_slides, work), held_out_tiles
    )
    heads: dict[str, Head] = {}
    for name, sets in lessons.items():
        heads[name] = Head(extractor.channels, len(sets[0][0].classes), size.heads.training.width)

        def learn(name: str = name) -> None:
            trained = trainer.learn(lessons[name], size.heads.training)
            heads[name].load_state_dict(trained.state_dict())

        stage(work, f"head-{name}", heads[name], learn)
        save_head(folder, name, heads[name])
        save_embeddings(folder, name, trainer.embeddings(sets))
    scores = {name: trainer.scores(heads[name], *tests[name]) for name in heads}
    sealed = seal(folder, card)
    write_card(folder, replace(sealed, heads=head_cards(heads, lessons, scores, card.backbone)))
    install(folder, arguments.out)
    print(f"wrote {arguments.out}; held-out: {scores}", file=sys.stderr)


def backbone_of(
    size: Size, arguments: argparse.Namespace, drawn: list[np.ndarray]
) -> tuple[Backbone, dict[str, str]]:
    """Return the diffusion model, trained or taken from a folder, and how it was made."""
    if arguments.backbone:
        card = read_card(arguments.backbone)
        told = {key: str(card.training[key]) for key in BACKBONE_NOTES if key in card.training}
        return load_backbone(arguments.backbone, card), told
    tiles = arguments.tiles
    kinds = sorted(folder for folder in (tiles / "nct_crc").iterdir() if folder.is_dir())
    real = [
        (0.25, read_images(tiles / "tcga_coad", 0.5)),
        (0.15, read_images(tiles / "tnbc", 0.25)),
        (0.15, [image for kind in kinds for image in read_images(kind, 0.5)]),
    ]
    backbone = train_backbone(
        size.backbone, Mixture(real), Mixture([(0.45, drawn), *real]), arguments.work
    )
    recipe = f"projects/default_model.py --size {arguments.size}"
    date = datetime.date.today().isoformat()
    return backbone, dict(zip(BACKBONE_NOTES, (recipe, date, repr(size)), strict=True))


def install(folder: Path, place: Path) -> None:
    """Put a finished model folder in its place."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)
    shutil.copyfile(Path(__file__).parent / "NOTICE.md", place / "NOTICE.md")


if __name__ == "__main__":
    main()
