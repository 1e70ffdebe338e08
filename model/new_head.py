"""A new head for a model: labelled images in, a model folder out."""

from __future__ import annotations

import csv
import datetime
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.cache import FeatureCache, PatchPlan, Tell, silent
from model.card import CARD_FILE, HeadCard, ModelCard, read_card, write_card
from model.charts import draw_learning_curves
from model.errors import ModelError
from model.feature_set import FeatureSet, ImageFeatures
from model.finetune import check_decoder, finetuned_or_frozen, live_patches
from model.head_base import Base, HeadRequest, base_of, stem_of
from model.home import models_home
from model.labels import LabelCounts, LabelledImage, LabelSet, check_labels
from model.lessons import Epoch, Lessons, Trained
from model.library import new_model
from model.novelty import save_embeddings
from model.split import split, split_by
from model.train import train_head
from model.weights import STEM_WEIGHTS, save_head, save_unet, seal

Sides = tuple[list[LabelledImage], list[LabelledImage]]
MOST_VARIANTS, FEW_PATCHES = 4, 400


@dataclass(frozen=True)
class NewHead:
    """A head that was put into a model, and how it learned; tuned: whether the decoder did too."""

    folder: Path
    card: HeadCard
    trained: Trained
    tuned: bool = False

    def summary(self) -> str:
        """Return what to tell of it."""
        learned, how = self.trained, "fine-tuned" if self.tuned else "trained"
        return (
            f"head {how} on {self.card.training['data']}; held-out mean Dice"
            f" {learned.best_dice:.3f} (epoch {learned.best} of {len(learned.curve)})\n"
            f"it is in {self.folder}; use it: qupath-pathsegdiff run PROJECT --model"
            f" {self.folder.name}"
        )


def train_new_head(
    request: HeadRequest,
    labels: LabelSet,
    say: Callable[[str], None],
    tell: Tell = silent,
) -> NewHead:
    """Train a head on labelled images and put it into its model, whole or not at all.

    A training that was interrupted goes on where it stood if the same is asked for again.

    Raises:
        ModelError: labels, names or settings cannot be used; or training went wrong, and then the
            message says whether a head was kept.
    """
    base = base_of(request)
    if request.finetune:
        check_decoder(base.extractor)
    counts = check_labels(labels)
    sides = split(labels.images, request.validation_share, request.training.seed, counts)
    say(f"{len(sides[0])} images to train on, {len(sides[1])} held out ({labels.description})")
    plan = _patch_plan(request, base.card, len(sides[0]), labels)
    cache = FeatureCache(limit_gib=request.cache_gib)
    computed = ImageFeatures(base.extractor, base.card.backbone, cache, tell)
    taught = computed.files(sides[0], plan)
    held_out = computed.files(sides[1], replace(plan, variants=1))
    lessons = Lessons(FeatureSet(taught), FeatureSet(held_out), len(labels.classes))
    checkpoint = models_home() / ".training" / f"{request.model}-{request.head}.pt"
    trained = train_head(lessons, request.training, checkpoint, tell)
    tuned = False
    if request.finetune and not trained.trouble:
        trained, tuned = _finetuned(request, base, sides, plan, trained, tell)
        say(trained.note)
    card = _head_card(request, base, labels, counts, sides, trained)
    embeddings = torch.cat([file.embeddings for file in taught]).numpy()
    folder = _install(request, base, card, trained, embeddings, tuned)
    checkpoint.unlink(missing_ok=True)
    if trained.trouble:
        raise ModelError(
            f"{trained.trouble}; training stopped there, and the head of epoch {trained.best} was"
            f" kept in {folder}. A lower learning rate may help"
        )
    return NewHead(folder, card, trained, tuned)


def _finetuned(
    request: HeadRequest,
    base: Base,
    sides: Sides,
    plan: PatchPlan,
    frozen: Trained,
    tell: Tell,
) -> tuple[Trained, bool]:
    """Return what is better, fine-tuned or frozen, and whether it is fine-tuned."""
    train, held_out = (live_patches(base.extractor, side, plan) for side in sides)
    lessons = Lessons(train, held_out, frozen.head.classify.out_channels)
    return finetuned_or_frozen(base.extractor, frozen, lessons, request.training, tell)


def _patch_plan(request: HeadRequest, card: ModelCard, images: int, labels: LabelSet) -> PatchPlan:
    """Return how images become patches, with more stains the fewer there are."""
    stride_m = card.tile_m * 3 // 4
    plan = PatchPlan(card.tile_m, stride_m, card.margin_m, 1, request.training.seed)
    if request.variants:
        return replace(plan, variants=request.variants)
    first = labels.images[0].read().codes.shape
    patches = images * max(1, round(first[0] / stride_m)) * max(1, round(first[1] / stride_m))
    return replace(plan, variants=max(1, min(MOST_VARIANTS, FEW_PATCHES // max(1, patches))))


def _head_card(
    request: HeadRequest,
    base: Base,
    labels: LabelSet,
    counts: LabelCounts,
    sides: Sides,
    trained: Trained,
) -> HeadCard:
    train, validation = sides
    return HeadCard(
        classes=tuple(labels.classes),
        feature_channels=base.extractor.channels,
        width=request.training.width,
        description=f"Trained on {labels.description}.",
        scores={"held-out mean Dice of score cells": round(trained.best_dice, 4)},
        backbone=base.card.backbone,
        training={
            "data": labels.description,
            "pixels per class": dict(counts.per_class),
            "train": [image.name for image in train],
            "held out": [image.name for image in validation],
            "held out by": split_by(train, validation),
            "settings": asdict(request.training),
            "best epoch": trained.best,
            **({"fine-tuning": trained.note} if trained.note else {}),
            "date": datetime.date.today().isoformat(),
            **({"asked by": request.asked_by} if request.asked_by else {}),
        },
    )


def _install(
    request: HeadRequest,
    base: Base,
    card: HeadCard,
    trained: Trained,
    embeddings: np.ndarray,
    tuned: bool,
) -> Path:
    """Put the head into its model: a copy of the base with its heads, and this one.

    `tuned`: the U-Net is not the base's any more, and the base's heads do not fit it.
    """
    own = models_home() / request.model
    exists = (own / CARD_FILE).is_file()
    source, model = (own, read_card(own)) if exists else (base.folder, base.card)
    with new_model(request.model, exists, model if exists else None) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        same_features = exists or (base.card.features == read_card(source).features and not tuned)
        if not same_features:
            shutil.rmtree(folder / "heads", ignore_errors=True)
        if base.card.features.stem is not None and not (folder / STEM_WEIGHTS).exists():
            shutil.copyfile(stem_of(folder), folder / STEM_WEIGHTS)
        if tuned:
            save_unet(folder, base.extractor.backbone.unet)
        save_head(folder, request.head, trained.head)
        save_embeddings(folder, request.head, embeddings)
        write_curve(folder / "heads" / f"{request.head}.curve.tsv", trained.curve)
        sealed = seal(folder, replace(model, name=request.model, heads={}))
        # The base's heads stay at hand; what runs by itself is what was trained here.
        heads = {
            name: head if exists else replace(head, on_request=True)
            for name, head in model.heads.items()
            if same_features
        }
        heads[request.head] = replace(card, backbone=sealed.backbone)
        write_card(folder, replace(sealed, heads=heads))
    return own


def write_curve(path: Path, curve: Sequence[Epoch]) -> None:
    """Write a learning curve as a table, and beside it as a picture."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, delimiter="\t", lineterminator="\n")
        table.writerow([f.name for f in fields(Epoch)])
        table.writerows([[_shown(v) for v in asdict(row).values()] for row in curve])
    draw_learning_curves(path, path.with_suffix(".png"))


def _shown(value: Any) -> Any:
    return f"{value:.5f}" if isinstance(value, float) else value
