"""The paper's ablation as a function: timesteps x blocks x conditioning, and the stem."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from model.cache import FeatureCache, PatchPlan, Tell, silent
from model.card import FeatureSpec, ModelCard, read_card
from model.charts import Dot, draw_dots
from model.device import choose_device
from model.errors import ModelError
from model.feature_set import FeatureSet, ImageFeatures
from model.features import Backbone, FeatureExtractor, check_features
from model.labels import LabelledImage, LabelSet, check_labels
from model.lessons import HeadTraining, Lessons
from model.outputs import make_output, writing_into
from model.split import split
from model.train import train_head
from model.weights import load_backbone

COLUMNS = ("timestep", "blocks", "conditioned", "stem", "mean_dice", "lowest", "highest", "seeds")


@dataclass(frozen=True)
class Grid:
    """What is tried, and how each trial is trained."""

    timesteps: tuple[int, ...]
    blocks: tuple[tuple[int, ...], ...]
    repeats: int = 1
    steps: int = 400
    validation_share: float = 0.25
    seed: int = 0
    cache_gib: float = 20.0
    device: str = "auto"

    def training(self, repeat: int = 0) -> HeadTraining:
        """Return the settings of a trial's training.

        Raises:
            ModelError: nothing could be trained with them.
        """
        return HeadTraining(steps=self.steps, seed=self.seed + repeat)


@dataclass(frozen=True)
class Trial:
    """One choice of features; no blocks is the stem alone."""

    timestep: int
    blocks: tuple[int, ...]
    conditioned: bool
    stem: bool


@dataclass(frozen=True)
class Row:
    """A trial's held-out mean Dice for each seed."""

    trial: Trial
    scores: tuple[float, ...]

    @property
    def cells(self) -> list[str | int]:
        """Return what the table shows, in the order of COLUMNS."""
        t, scores = self.trial, self.scores
        measured = [f"{x:.4f}" for x in (np.mean(scores), min(scores), max(scores))]
        timestep: str | int = t.timestep if t.blocks else "-"
        conditioned = ("yes" if t.conditioned else "no") if t.blocks else "-"
        blocks = ",".join(map(str, t.blocks)) or "-"
        return [timestep, blocks, conditioned, "yes" if t.stem else "no", *measured, len(scores)]

    def line(self) -> str:
        """Return the row for a reader."""
        return "  ".join(f"{n} {c}" for n, c in zip(COLUMNS, self.cells, strict=True))


def run_ablation(
    folder: Path,
    grid: Grid,
    labels: LabelSet,
    output: Path,
    say: Callable[[str], None],
    tell: Tell = silent,
) -> list[Row]:
    """Train a head per trial and seed on the same split; write ablation.tsv and ablation.png.

    The score is the mean Dice of the classes over the images held out, by score cell, of the best
    epoch. The table is written after each trial.

    Raises:
        ModelError: the labels cannot be split, a timestep or block does not exist, or the folder
            cannot be written into.
    """
    card = read_card(folder)
    backbone = load_backbone(folder, card).to(choose_device(grid.device))
    _check(grid, card, backbone)
    counts = check_labels(labels)
    sides = split(labels.images, grid.validation_share, grid.seed, counts)
    say(f"{len(sides[0])} images to train on, {len(sides[1])} held out")
    bench = _Bench(grid, card, backbone, sides, len(labels.classes), tell)
    make_output(output)
    rows: list[Row] = []
    for trial in trials(grid, has_stem=backbone.stem is not None):
        rows.append(bench.row(trial))
        say(rows[-1].line())
        with writing_into(output):
            _write(output / "ablation.tsv", rows)
    with writing_into(output):
        draw_dots(
            output / "ablation.png", [_dot(r) for r in rows], "timestep", "held-out mean Dice"
        )
    return rows


def trials(grid: Grid, has_stem: bool) -> Iterator[Trial]:
    """Yield what is tried: the stem alone first, then all else without the stem and with it."""
    if has_stem:
        yield Trial(grid.timesteps[0], (), True, True)
    stems = (False, True) if has_stem else (False,)
    for timestep, conditioned in itertools.product(grid.timesteps, (True, False)):
        for blocks, stem in itertools.product(grid.blocks, stems):
            yield Trial(timestep, blocks, conditioned, stem)


@dataclass(frozen=True)
class _Bench:
    """The split images and what computes, caches and trains on their features."""

    grid: Grid
    card: ModelCard
    backbone: Backbone
    sides: tuple[list[LabelledImage], list[LabelledImage]]
    classes: int
    tell: Tell

    def row(self, trial: Trial) -> Row:
        spec = self._spec(trial)
        maps = _maps(spec, trial, self._stem_maps)
        features = self._features(spec)
        files = [features.files(side, self._patches) for side in self.sides]
        train, held_out = (FeatureSet(side, maps) for side in files)
        scores = []
        lessons = Lessons(train, held_out, self.classes)
        for repeat in range(self.grid.repeats):
            trained = train_head(lessons, self.grid.training(repeat), tell=self.tell)
            scores.append(trained.best_dice)
        return Row(trial, tuple(scores))

    @property
    def _stem_maps(self) -> int:
        return len(self.backbone.stem.channels) if self.backbone.stem is not None else 0

    def _spec(self, trial: Trial) -> FeatureSpec:
        """Return what is computed for a trial: all blocks at once, which its neighbours share."""
        every = tuple(sorted({block for blocks in self.grid.blocks for block in blocks}))
        return replace(
            self.card.features,
            timesteps=(trial.timestep,),
            up_blocks=every,
            conditioned=trial.conditioned,
        )

    def _features(self, spec: FeatureSpec) -> ImageFeatures:
        extractor = FeatureExtractor(self.backbone, spec).eval()
        digest = replace(self.card, features=spec).backbone
        cache = FeatureCache(limit_gib=self.grid.cache_gib)  # what other trials use may go
        return ImageFeatures(extractor, digest, cache, self.tell)

    @property
    def _patches(self) -> PatchPlan:
        side_m = self.card.tile_m
        return PatchPlan(side_m, side_m * 3 // 4, self.card.margin_m)


def _maps(spec: FeatureSpec, trial: Trial, stem_maps: int) -> list[int]:
    """Return which of the computed maps a trial uses."""
    first = len(spec.up_blocks)
    stem = range(first, first + stem_maps) if trial.stem else ()
    return [*(spec.up_blocks.index(block) for block in trial.blocks), *stem]


def _check(grid: Grid, card: ModelCard, backbone: Backbone) -> None:
    grid.training()
    if grid.repeats < 1:
        raise ModelError(f"each trial needs a seed at least; got {grid.repeats} repeats")
    for blocks in grid.blocks:
        wanted = replace(card.features, up_blocks=blocks, timesteps=grid.timesteps)
        check_features(wanted, backbone)


def _dot(row: Row) -> Dot:
    trial, scores = row.trial, row.scores
    condition = "conditioned" if trial.conditioned else "unconditioned"
    group = f"blocks {','.join(map(str, trial.blocks))}, {condition}" if trial.blocks else "stem"
    return Dot(
        panel="with the stem" if trial.stem else "without the stem",
        position=str(trial.timestep) if trial.blocks else "stem alone",
        group=group,
        mean=float(np.mean(scores)),
        low=min(scores),
        high=max(scores),
    )


def _write(path: Path, rows: Sequence[Row]) -> None:
    beside = path.with_suffix(".part")
    with beside.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, delimiter="\t", lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(row.cells for row in rows)
    beside.replace(path)
