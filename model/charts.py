"""Pictures of numbers: confusion matrix, bars with intervals, learning curves, ablations.

Every picture is made without a display and goes straight into a file.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from model.errors import ModelError
from model.metrics import Interval

# Told apart by colour-blind readers too. Source: Okabe and Ito, Color Universal Design (2008).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DPI = 150


@dataclass(frozen=True)
class Dot:
    """One measured mean with its spread (low to high) and where it stands.

    panel: the picture it is in. position: its place along the axis. group: its colour.
    """

    panel: str
    position: str
    group: str
    mean: float
    low: float
    high: float


def draw_confusion(path: Path, counts: np.ndarray, names: Sequence[str]) -> None:
    """Write a picture of a confusion matrix [K, K], truth down, as shares of each true class."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    side = max(4.5, 1.6 + 0.75 * len(names))
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        if totals[row, 0]:
            colour = "white" if share > 0.55 else "black"
            axes.text(column, row, f"{100 * share:.1f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    figure.colorbar(picture, label="share of the true class", shrink=0.8)
    figure.suptitle("Confusion, % of each true class")
    _save(figure, path)


def draw_bars(
    path: Path, names: Sequence[str], scores: Mapping[str, Interval], title: str = ""
) -> None:
    """Write bars of scores 0..1, arrays [K] over `names`, with their intervals.

    What is undefined (NaN) has no bar.
    """
    figure = Figure(figsize=(max(5.0, 2.0 + 1.5 * len(names)), 4.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(scores)
    places = np.arange(len(names))
    for number, (label, score) in enumerate(scores.items()):
        at = places + (number - (len(scores) - 1) / 2) * width
        axes.bar(at, score.value, width * 0.92, color=PALETTE[number % len(PALETTE)], label=label)
        axes.errorbar(at, score.value, _errors(score), fmt="none", ecolor="black", capsize=3)
    axes.set_xticks(places, names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    _score_axis(axes)
    _legend_below(figure, columns=min(len(scores), 5))
    axes.set_title(title)
    _save(figure, path)


def draw_learning_curves(table: Path, path: Path) -> None:
    """Write a picture of a training's TSV: column `epoch`, losses left, all else right.

    Columns whose name ends in `loss` are losses; cells that hold no number are gaps.

    Raises:
        ModelError: the table has no column `epoch`, or no row.
    """
    columns = _read_columns(table)
    epochs = columns.pop("epoch")
    losses = [name for name in columns if name.endswith("loss")]
    scores = [name for name in columns if name not in losses]
    figure = Figure(figsize=(4.6 * (bool(losses) + bool(scores)), 3.8), layout="constrained")
    panels = [names for names in (losses, scores) if names]
    for number, names in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), number)
        for colour, name in zip(PALETTE, names, strict=False):
            axes.plot(epochs, columns[name], ".-", color=colour, label=name.replace("_", " "))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("loss" if names is losses else "score")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    _save(figure, path)


def draw_dots(path: Path, dots: Sequence[Dot], axis: str, score: str) -> None:
    """Write a grouped dot plot: a panel per `panel`, places along `axis`, a colour per group.

    Panels, their positions and groups come in the order of their first dot.
    """
    panels, groups = _in_order([d.panel for d in dots]), _in_order([d.group for d in dots])
    each = max(2.2, 0.8 + 0.55 * len({d.position for d in dots}))
    width, height = max(5.0, 1.0 + each * len(panels)), 3.6 + 0.25 * len(groups)
    figure = Figure(figsize=(width, height), layout="constrained")
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(every, panels, strict=True):
        _draw_panel(axes, [d for d in dots if d.panel == panel], groups)
        axes.set_title(panel)
        axes.set_xlabel(axis)
        axes.grid(axis="y", alpha=0.3)
    every[0].set_ylabel(score)
    _legend_below(figure, columns=1)
    _save(figure, path)


def _draw_panel(axes: Axes, dots: Sequence[Dot], groups: Sequence[str]) -> None:
    """Draw a panel's dots at its own positions, those of one position side by side."""
    positions = _in_order([d.position for d in dots])
    for number, group in enumerate(groups):
        shift = (number - (len(groups) - 1) / 2) * 0.5 / len(groups)
        mine = [d for d in dots if d.group == group]
        _draw_group(axes, mine, [positions.index(d.position) + shift for d in mine], number)
    axes.set_xticks(range(len(positions)), positions)
    axes.set_xlim(-0.6, len(positions) - 0.4)


def _draw_group(axes: Axes, dots: Sequence[Dot], places: Sequence[float], number: int) -> None:
    if not dots:
        return
    means = np.array([d.mean for d in dots])
    spread = np.array([[d.mean - d.low for d in dots], [d.high - d.mean for d in dots]])
    colour, label = PALETTE[number % len(PALETTE)], dots[0].group
    axes.errorbar(
        places, means, np.nan_to_num(spread).clip(0), fmt="o", color=colour, capsize=3, label=label
    )


def _errors(score: Interval) -> np.ndarray:
    """Return the lengths of error bars [2, K], 0 where there is no interval."""
    ends = np.stack([score.value - score.low, score.high - score.value])
    return np.nan_to_num(ends).clip(0)


def _score_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _legend_below(figure: Figure, columns: int) -> None:
    """Put one legend below, of what is in any of the figure's panels."""
    named: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(named.values()),
        list(named),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
    )


def _in_order(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _read_columns(table: Path) -> dict[str, list[float]]:
    with table.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    if not rows or "epoch" not in rows[0]:
        raise ModelError(f"{table} has no learning curve; it needs a column epoch and a row")
    return {name: [_number(row[name]) for row in rows] for name in rows[0]}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI, format="png")
