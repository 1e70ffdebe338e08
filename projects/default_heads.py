"""The heads of the shipped model: what they learn from, and how good they are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from default_data import GLANDS, TILE_M, TISSUE, as_glands, as_tissue, drawn_labels

from model.cache import FeatureCache, FeatureFile, PatchPlan
from model.card import FeatureSpec, HeadCard
from model.evaluate import evaluate, summarise
from model.feature_set import FeatureSet, ImageFeatures
from model.features import FeatureExtractor
from model.head import Head
from model.labels import LabelSet
from model.lessons import HeadTraining, Lessons
from model.predict import HeadPredictor
from model.stem import StemPlan
from model.train import train_head
from qupath_bridge.demo.drawing import DemoSlide
from qupath_bridge.progress import stage_lines

FEATURES = FeatureSpec(timesteps=(50,), up_blocks=(0, 1, 2), stem=asdict(StemPlan()))
PATCHES = PatchPlan(TILE_M, TILE_M, 16)
DESCRIPTIONS = {
    "tissue": "Tissue; a normal gland, lumen included, is Other. Scores: Dice, drawn slides.",
    "glands": "Normal glands, lumen included. Scores: Dice, drawn slides.",
    "tissue-crc": "Tissue of the colon. Scores: share of pixels right in held-out tiles.",
}


@dataclass(frozen=True)
class HeadSize:
    """How much goes into the heads: crops of each drawn slide, stains of each real tile."""

    crops_per_slide: int
    stains: int
    training: HeadTraining


@dataclass(frozen=True)
class HeadWork:
    """The frozen model with its digest, and where features are cached."""

    extractor: FeatureExtractor
    digest: str
    cache: FeatureCache

    def learn(self, sets: list[tuple[LabelSet, int]], training: HeadTraining) -> Head:
        """Return a head trained on label sets, each with its number of stains."""
        lessons = Lessons(FeatureSet(self._files(sets)), None, len(sets[0][0].classes))
        return train_head(lessons, training, tell=stage_lines()).head

    def _files(self, sets: list[tuple[LabelSet, int]]) -> list[FeatureFile]:
        features = ImageFeatures(self.extractor, self.digest, self.cache, stage_lines())
        return [
            file
            for labels, stains in sets
            for plan in [replace(PATCHES, variants=stains)]
            for file in features.files(labels.images, plan, f"features of {labels.description}")
        ]

    def embeddings(self, sets: list[tuple[LabelSet, int]]) -> np.ndarray:
        """Return the encoder's embeddings of all patches of label sets, float32 [N, D]."""
        return torch.cat([file.embeddings for file in self._files(sets)]).numpy()

    def scores(self, head: Head, labels: LabelSet, measure: str) -> dict[str, float]:
        """Return a measure per class, pooled over labelled images."""
        predict = HeadPredictor(self.extractor, self.digest, head, PATCHES, self.cache)
        values = summarise(evaluate(predict, labels)).per_class[measure].value
        names = [kind.name for kind in labels.classes]
        return {name: round(float(v), 3) for name, v in zip(names, values, strict=True)}


def head_lessons(
    size: HeadSize, slides: list[DemoSlide], tiles: LabelSet
) -> dict[str, list[tuple[LabelSet, int]]]:
    """Return what each head learns from: drawn slides, and real tiles, which are stained anew."""
    drawn = partial(drawn_labels, slides, size.crops_per_slide)
    return {
        "tissue": [(drawn("tissue", TISSUE), 1), (as_tissue(tiles), size.stains)],
        "glands": [(drawn("glands", GLANDS), 1), (as_glands(tiles), size.stains)],
        "tissue-crc": [(tiles, size.stains)],
    }


def head_tests(slides: list[DemoSlide], tiles: LabelSet) -> dict[str, tuple[LabelSet, str]]:
    """Return what each head is scored on, and by which measure."""
    drawn = partial(drawn_labels, slides, 2)
    return {
        "tissue": (drawn("tissue", TISSUE), "dice"),
        "glands": (drawn("glands", GLANDS), "dice"),
        "tissue-crc": (tiles, "recall"),
    }


def head_cards(
    heads: dict[str, Head],
    lessons: dict[str, list[tuple[LabelSet, int]]],
    scores: dict[str, dict[str, float]],
    backbone: str,
) -> dict[str, HeadCard]:
    """Return the heads' cards."""
    return {
        name: HeadCard(
            classes=tuple(lessons[name][0][0].classes),
            feature_channels=head.feature_channels,
            width=head.width,
            description=DESCRIPTIONS[name],
            scores=scores[name],
            backbone=backbone,
            training={"data": [labels.description for labels, _ in lessons[name]]},
            on_request=name == "tissue-crc",
        )
        for name, head in heads.items()
    }
