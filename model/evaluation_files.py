"""An evaluation on disk: tables for a spreadsheet, JSON for programs, pictures for people."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from model.charts import draw_bars, draw_confusion
from model.evaluate import Evaluation, Summary, image_scores
from model.metrics import Interval, Resampling

PER_CLASS = "per_class.tsv"
PER_IMAGE = "per_image.tsv"
CONFUSION = "confusion.tsv"
SUMMARY = "summary.json"
PICTURES = ("confusion.png", "per_class.png")


def write_evaluation(
    folder: Path, evaluation: Evaluation, summary: Summary, how: Resampling | None = None
) -> None:
    """Write the tables, the summary and the charts of an evaluation into a folder.

    how: the resampling that `summary` was made with, noted in the JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [c.name for c in evaluation.classes]
    counts = evaluation.confusions.sum(axis=0)
    write_table(folder / PER_CLASS, _class_rows(names, counts, summary))
    write_table(folder / PER_IMAGE, _image_rows(evaluation))
    write_table(folder / CONFUSION, _confusion_rows(names, counts))
    how = how or Resampling()
    content = summary_json(evaluation, summary, how)
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / SUMMARY).write_text(text + "\n", encoding="utf-8")
    draw_confusion(folder / PICTURES[0], counts, names)
    shown = {"Dice": summary.per_class["dice"], "IoU": summary.per_class["iou"]}
    shown |= {k.capitalize(): summary.per_class[k] for k in ("precision", "recall")}
    title = f"{len(evaluation.names)} images, {100 * how.level:g} % bootstrap intervals over images"
    draw_bars(folder / PICTURES[1], names, shown, title)


def summary_json(evaluation: Evaluation, summary: Summary, how: Resampling) -> dict[str, Any]:
    """Return the summary as JSON holds it; what is undefined is null."""
    names = [c.name for c in evaluation.classes]
    return {
        "images": len(evaluation.names),
        "labelled_pixels": int(evaluation.confusions.sum()),
        "overall": {name: _entry(score) for name, score in summary.overall.items()},
        "classes": {
            name: {metric: _entry(score, at) for metric, score in summary.per_class.items()}
            for at, name in enumerate(names)
        },
        "glands": {name: _entry(score) for name, score in summary.glands.items()},
        "intervals": {"over": "images", "method": "percentile bootstrap", **asdict(how)},
    }


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows of equal keys as TSV; floats with 4 decimals, NaN as an empty cell."""
    listed = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(listed[0])
        writer.writerows([_cell(value) for value in row.values()] for row in listed)


def _class_rows(
    names: Sequence[str], counts: np.ndarray, summary: Summary
) -> Iterable[dict[str, Any]]:
    for at, name in enumerate(names):
        row: dict[str, Any] = {"class": name, "truth_pixels": int(counts[at].sum())}
        for metric, score in summary.per_class.items():
            row |= {metric: float(score.value[at])}
            row |= {f"{metric}_low": float(score.low[at]), f"{metric}_high": float(score.high[at])}
        yield row


def _image_rows(evaluation: Evaluation) -> Iterable[dict[str, Any]]:
    scores = image_scores(evaluation)
    dice = scores.pop("dice")
    whole = {name: values for name, values in scores.items() if values.ndim == 1}
    for at, (name, group) in enumerate(zip(evaluation.names, evaluation.groups, strict=True)):
        row: dict[str, Any] = {"image": name, "group": group}
        row["labelled_pixels"] = int(evaluation.confusions[at].sum())
        row |= {metric: float(values[at]) for metric, values in whole.items()}
        for code, one in enumerate(evaluation.classes):
            row[f"dice {one.name}"] = float(dice[at, code])
        yield row


def _confusion_rows(names: Sequence[str], counts: np.ndarray) -> Iterable[dict[str, Any]]:
    for name, row in zip(names, counts, strict=True):
        yield {"truth \\ predicted": name} | dict(zip(names, map(int, row), strict=True))


def _entry(score: Interval, at: int | tuple[()] = ()) -> dict[str, float | None]:
    ends = {"value": score.value[at], "low": score.low[at], "high": score.high[at]}
    return {name: _json_number(float(number)) for name, number in ends.items()}


def _json_number(number: float) -> float | None:
    return None if math.isnan(number) else round(number, 6)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4f}"
    return str(value)
