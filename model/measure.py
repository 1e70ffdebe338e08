"""A head of a model folder, measured on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.cache import FeatureCache, PatchPlan, Tell, silent
from model.card import HeadClass, ModelCard, read_card
from model.device import choose_device
from model.evaluate import Evaluation, Summary, evaluate, summarise
from model.evaluation_files import write_evaluation
from model.features import FeatureExtractor
from model.instances import GlandReading
from model.labels import LabelSet, in_classes_of
from model.metrics import Interval
from model.outputs import make_output, writing_into
from model.overlays import draw_worst
from model.predict import HeadPredictor
from model.weights import load_backbone, load_head

WORST = 5


@dataclass(frozen=True)
class Measuring:
    """Which head of which model folder is measured, and where."""

    folder: Path
    head: str
    device: str = "auto"
    cache_gib: float = 20.0


def measure_head(
    how: Measuring,
    labels: LabelSet,
    output: Path,
    say: Callable[[str], None],
    tell: Tell = silent,
) -> str:
    """Write a head's scores on labelled images into a folder; return them as a short table.

    Raises:
        ModelError: the head cannot be used, knows none of the labels' classes, or the folder
            cannot be written into.
    """
    card = read_card(how.folder)
    card.choose_heads([how.head])
    labels, unknown = in_classes_of(labels, card.heads[how.head].classes)
    if unknown:
        say(f"not measured, since the head does not know them: {', '.join(unknown)}")
    predictor = head_predictor(how, card)
    make_output(output)
    done = 0

    def predict(pixels: np.ndarray, origin_m: tuple[int, int]) -> np.ndarray:
        nonlocal done
        probabilities = predictor(pixels, origin_m)
        tell("measure", done := done + 1, max(done, len(labels.images)))
        return probabilities

    glands = gland_reading(labels.classes, card.mpp)
    evaluation = evaluate(predict, labels, glands)
    summary = summarise(evaluation)
    with writing_into(output):
        write_evaluation(output, evaluation, summary)
        draw_worst(output / "worst", evaluation, predictor, labels, WORST, glands)
    return short_table(evaluation, summary)


def head_predictor(how: Measuring, card: ModelCard) -> HeadPredictor:
    """Return a head of a model folder as a predictor of whole images."""
    backbone = load_backbone(how.folder, card).to(choose_device(how.device))
    return HeadPredictor(
        extractor=FeatureExtractor(backbone, card.features).eval(),
        backbone=card.backbone,
        head=load_head(how.folder, card, how.head),
        plan=PatchPlan(card.tile_m, card.tile_m // 2, card.margin_m),
        cache=FeatureCache(limit_gib=how.cache_gib),
    )


def gland_reading(classes: Sequence[HeadClass], mpp: float) -> GlandReading | None:
    """Return how glands are read from a head of these classes; None where it has none."""
    names = [c.name for c in classes]
    if "Gland" not in names:
        return None
    border = names.index("Gland border") if "Gland border" in names else None
    return GlandReading(mpp, gland=names.index("Gland"), border=border)


def short_table(evaluation: Evaluation, summary: Summary) -> str:
    """Return the scores as lines: per class, then over all."""
    names = [c.name for c in evaluation.classes]
    wide = max(map(len, [*names, *summary.glands]))
    lines = [f"{'class':{wide}}  Dice   95 % interval   IoU    precision  recall"]
    for code, name in enumerate(names):
        values = [summary.per_class[k].value[code] for k in ("iou", "precision", "recall")]
        shown = f"{values[0]:.3f}  {values[1]:.3f}      {values[2]:.3f}"
        lines.append(f"{name:{wide}}  {_with_ends(summary.per_class['dice'], code)}   {shown}")
    for name, interval in [*summary.overall.items(), *summary.glands.items()]:
        lines.append(f"{name:{wide}}  {_with_ends(interval)}")
    return "\n".join([*lines, f"{len(evaluation.names)} images"])


def _with_ends(interval: Interval, at: int | tuple[()] = ()) -> str:
    value, low, high = (float(a[at]) for a in (interval.value, interval.low, interval.high))
    return f"{value:.3f}  {low:.3f} to {high:.3f}"
