"""What all.py shows at the end: a table of ratios and a picture of them, with the machine named."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from records import Record

from model.charts import DPI, PALETTE

HOLDS, MISSED, NO_GOAL = PALETTE[2], PALETTE[1], "#777777"
SERIES = {
    "area": "cost of a slide per area",
    "memory": "most memory held",
    "lazyslide": "slide to polygons",
}


@dataclass(frozen=True)
class Result:
    """What became of one benchmark.

    status: "done", "skipped: why" or "failed: why". machine: where; when: its end, ISO 8601.
    load: how many programs wanted the cores when it began, a mean of a minute.
    """

    name: str
    status: str
    machine: str = ""
    when: str = ""
    seconds: float = 0.0
    load: float = 0.0
    records: Sequence[Record] = field(default_factory=tuple)


def machine() -> str:
    """Return what this machine is, in a line."""
    import torch

    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    parts = [
        _processor(),
        f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"
        " cores",
        *cards,
        f"{platform.system()} {platform.release().split('-')[0]}",
        f"Python {platform.python_version()}",
        *(f"{name} {version(name)}" for name in ("torch", "numpy", "shapely", "openslide-bin")),
    ]
    return ", ".join(parts)


def load() -> float:
    """Return how many programs want the cores, a mean of the last minute; 0 where none tells."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else 0.0


def measured_on(results: Mapping[str, Result]) -> list[str]:
    """Return a sentence for each machine, with how busy it was before each benchmark."""
    loads: dict[str, list[float]] = {}
    for result in results.values():
        if result.records:
            loads.setdefault(result.machine, []).append(result.load)
    return [
        f"Measured on {name}; load before each benchmark {min(seen)} to {max(seen)}."
        for name, seen in loads.items()
    ]


def table(results: Mapping[str, Result]) -> str:
    """Return all records as a Markdown table, then what was left out, then the machines."""
    lines = ["| what | ours | against | ratio | goal | |", "|---|---|---|---|---|---|"]
    for result in results.values():
        lines += [_row(record) for record in result.records]
    left_out = [f"- {r.name}: {r.status}" for r in results.values() if r.status != "done"]
    parts = [lines, left_out, measured_on(results)]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _row(record: Record) -> str:
    other = f"{record.other:.4g} {record.unit}, {record.other_is}"
    verdict = {True: "holds", False: "**missed**", None: ""}[record.holds]
    ours = f"{record.ours:.4g} {record.unit}"
    what = f"{record.benchmark}: {record.what}"
    cells = [what, ours, other, f"{record.ratio:.3g}", record.goal, verdict]
    return "| " + " | ".join(cells) + " |"


def draw(path: Path, results: Mapping[str, Result]) -> None:
    """Write a picture: the ratios with their goals, and what follows the side of a slide."""
    records = [record for result in results.values() for record in result.records]
    ratios = [record for record in records if _is_last(record, records)]
    height = max(5.0, 1.6 + 0.36 * len(ratios))
    figure = Figure(figsize=(12.5, height), layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=(2.2, 1))
    _draw_ratios(figure.add_subplot(grid[:, 0]), ratios)
    for row, (name, title) in enumerate(SERIES.items()):
        series = [record for record in records if record.benchmark == name and record.size_px]
        if name == "lazyslide":  # against itself it is in the table
            series = [record for record in series if not record.other_px]
        _draw_series(figure.add_subplot(grid[row, 1]), series, title)
    figure.suptitle("\n".join(measured_on(results)), fontsize=7)
    figure.savefig(path, dpi=DPI, format="png")


def _is_last(record: Record, records: Sequence[Record]) -> bool:
    """Return whether a record is none of a series, or the one of the largest slide."""
    if record.size_px is None:
        return True
    mine = [r for r in records if _kind(r) == _kind(record)]
    return record.size_px == max(r.size_px or 0 for r in mine)


def _kind(record: Record) -> tuple[str, str, str]:
    """Return of which series a record is."""
    return (
        record.benchmark,
        record.unit,
        re.sub(r"\(.*\)", "", record.what.replace(str(record.size_px), "")),
    )


def _draw_ratios(axes: Axes, records: Sequence[Record]) -> None:
    for place, record in enumerate(records):
        goal = record.at_most if record.at_most is not None else record.at_least
        colour = {True: HOLDS, False: MISSED, None: NO_GOAL}[record.holds]
        axes.plot(record.ratio, place, "o", color=colour)
        axes.annotate(f"{record.ratio:.3g}", (record.ratio, place), (0, 6), fontsize=7,
                      textcoords="offset points", ha="center")  # fmt: skip
        if goal is not None:
            axes.plot([record.ratio, goal], [place, place], "-", color=colour, alpha=0.35)
            axes.plot(goal, place, "|", color="black", markersize=13)
    names = [f"{r.benchmark}: {r.what}\nagainst {r.other_is}" for r in records]
    axes.set_yticks(range(len(records)), names, fontsize=7)
    axes.set_ylim(len(records) - 0.4, -0.7)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("ours / the other; | is the goal, green where it is reached")
    axes.grid(axis="x", alpha=0.3)


def _draw_series(axes: Axes, records: Sequence[Record], title: str) -> None:
    """Draw what a benchmark says against the side of the slide."""
    lines: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        lines.setdefault(_kind(record), []).append(record)
    for colour, mine in zip(PALETTE, lines.values(), strict=False):
        _draw_line(axes, sorted(mine, key=lambda r: r.size_px or 0), colour, len(lines) > 1)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("side of the slide, px", fontsize=8)
    if lines:
        _scale(axes, [side for r in records for side in (r.size_px, r.other_px) if side])
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)


def _draw_line(axes: Axes, mine: Sequence[Record], colour: str, several: bool) -> None:
    """Draw one series; where the other is a smaller slide, it is the first point of the same."""
    first = mine[0]
    start = [(first.other_px, first.other)] if first.other_px else []
    points = np.array([*start, *((r.size_px, r.ours) for r in mine)], float)
    named = first.what.replace(f"{first.size_px} px", "").strip(" ,").replace(", ,", ",")
    label = f"ours, {named}" if several else "ours"
    axes.plot(*points.T, "o-", color=colour, label=label, markersize=4)
    if not start:
        others = [[r.size_px, r.other] for r in mine]
        axes.plot(*np.array(others, float).T, "s--", color=colour, label=first.other_is,
                  markersize=4, alpha=0.6)  # fmt: skip
        axes.legend(frameon=False, fontsize=6)
    axes.set_ylabel(first.unit, fontsize=8)


def _scale(axes: Axes, sides: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(sides)), [f"{side:,}" for side in sorted(set(sides))])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1.15 * max(np.max(line.get_ydata()) for line in axes.get_lines()))


def _processor() -> str:
    names = Path("/proc/cpuinfo")
    if names.exists():
        lines = names.read_text(encoding="utf-8").splitlines()
        found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if found:
            return found[0]
    return platform.processor() or platform.machine()
