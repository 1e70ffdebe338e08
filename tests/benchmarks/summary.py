"""What all.py shows at the end: a table of ratios and a picture of them, with the machine named."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from records import Record

from model.charts import DPI, PALETTE

HOLDS, MISSED, NO_GOAL = PALETTE[2], PALETTE[1], "#777777"


@dataclass(frozen=True)
class Result:
    """What became of one benchmark.

    status: "done", "skipped: why" or "failed: why". machine: where; when: its end, ISO 8601.
    """

    name: str
    status: str
    machine: str = ""
    when: str = ""
    seconds: float = 0.0
    records: Sequence[Record] = field(default_factory=tuple)


def machine() -> str:
    """Return what this machine is and how busy it was, in a line."""
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
    if hasattr(os, "getloadavg"):
        parts.append(f"load {os.getloadavg()[0]:.1f} when begun")
    return ", ".join(parts)


def table(results: Mapping[str, Result]) -> str:
    """Return all records as a Markdown table, then what was left out, then the machines."""
    lines = ["| what | ours | against | ratio | goal | |", "|---|---|---|---|---|---|"]
    for result in results.values():
        lines += [_row(record) for record in result.records]
    left_out = [f"- {r.name}: {r.status}" for r in results.values() if r.status != "done"]
    machines = dict.fromkeys(r.machine for r in results.values() if r.records)
    parts = [lines, left_out, [f"Measured on {name}." for name in machines]]
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
    for row, (name, title) in enumerate(
        (
            ("area", "cost of a slide"),
            ("memory", "most memory held"),
            ("lazyslide", "slide to polygons"),
        )
    ):
        series = [record for record in records if record.benchmark == name and record.size_px]
        _draw_series(figure.add_subplot(grid[row, 1]), series, title)
    machines = dict.fromkeys(result.machine for result in results.values() if result.records)
    figure.suptitle("\n".join(machines), fontsize=7)
    figure.savefig(path, dpi=DPI, format="png")


def _is_last(record: Record, records: Sequence[Record]) -> bool:
    """Return whether a record is none of a series, or the one of the largest slide."""
    if record.size_px is None:
        return True
    mine = [r for r in records if _kind(r) == _kind(record)]
    return record.size_px == max(r.size_px or 0 for r in mine)


def _kind(record: Record) -> tuple[str, str, str]:
    """Return of which series a record is."""
    return record.benchmark, record.unit, record.what.replace(str(record.size_px), "")


def _draw_ratios(axes: Axes, records: Sequence[Record]) -> None:
    for place, record in enumerate(records):
        goal = record.at_most if record.at_most is not None else record.at_least
        colour = {True: HOLDS, False: MISSED, None: NO_GOAL}[record.holds]
        axes.plot(record.ratio, place, "o", color=colour)
        axes.annotate(f"{record.ratio:.3g}", (record.ratio, place), (0, 5), fontsize=7,
                      textcoords="offset points", ha="center")  # fmt: skip
        if goal is not None:
            axes.plot([record.ratio, goal], [place, place], "-", color=colour, alpha=0.35)
            axes.plot(goal, place, "|", color="black", markersize=13)
    names = [f"{r.benchmark}: {r.what}\nagainst {r.other_is}" for r in records]
    axes.set_yticks(range(len(records)), names, fontsize=7)
    axes.set_ylim(len(records) - 0.4, -0.7)
    axes.set_xscale("log")
    axes.set_xlabel("ours / the other; | is the goal, green where it is reached")
    axes.grid(axis="x", alpha=0.3)


def _draw_series(axes: Axes, records: Sequence[Record], title: str) -> None:
    """Draw what a series says against the side of the slide; first sides stand as `other`."""
    lines: dict[str, list[Record]] = {}
    for record in records:
        if not record.other_is.endswith(" px") or record.benchmark != "lazyslide":
            lines.setdefault(_kind(record)[2].strip(" ,("), []).append(record)
    for colour, (name, mine) in zip(PALETTE, lines.items(), strict=False):
        label = name if len(lines) > 1 else "ours"
        sides = [record.size_px or 0 for record in mine]
        axes.plot(sides, [r.ours for r in mine], "o-", color=colour, label=label, markersize=4)
        others = [r.other for r in mine]
        axes.plot(sides, others, "s--", color=colour, alpha=0.6, markersize=4,
                  label=mine[0].other_is)  # fmt: skip
        axes.set_ylabel(mine[0].unit)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("side, px", fontsize=8)
    if lines:
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=6)
    axes.grid(alpha=0.3)


def _processor() -> str:
    names = Path("/proc/cpuinfo")
    if names.exists():
        lines = names.read_text(encoding="utf-8").splitlines()
        found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if found:
            return found[0]
    return platform.processor() or platform.machine()
