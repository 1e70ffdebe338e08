"""What a benchmark tells: ratios of ours to something else, measured side by side in one run.

Every script of this folder that `all.py` runs takes `--records FILE` and adds its records there,
one JSON object a line, as soon as each is measured; it prints them too.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Record:
    """One ratio, ours / other, and what it has to be.

    benchmark: the script's name. what: the case. other_is: what the other is, a floor or a peer.
    at_most, at_least: the goal for the ratio; None and None: there is none. repeats: how often each
    was measured; the best of each counts. size_px: of a series, the side of the slide. other_px:
    where the other is ours on a smaller slide, its side.
    """

    benchmark: str
    what: str
    ours: float
    other: float
    other_is: str
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    repeats: int = 1
    size_px: int | None = None
    other_px: int | None = None

    @property
    def ratio(self) -> float:
        """Return ours / other."""
        return self.ours / self.other

    @property
    def holds(self) -> bool | None:
        """Return whether the goal is reached; None where there is none."""
        if self.at_most is None and self.at_least is None:
            return None
        low = self.at_least if self.at_least is not None else float("-inf")
        high = self.at_most if self.at_most is not None else float("inf")
        return low <= self.ratio <= high

    @property
    def goal(self) -> str:
        """Return the goal in words."""
        parts = (("at least", self.at_least), ("at most", self.at_most))
        return ", ".join(f"{word} {value:g}" for word, value in parts if value is not None)


def records_option(parser: argparse.ArgumentParser) -> None:
    """Let a script take the file into which its records go."""
    parser.add_argument("--records", type=Path, help="file to which records are added, JSON lines")


def tell(record: Record, file: Path | None) -> None:
    """Print a record, and add it to a file if there is one."""
    verdict = {True: ": holds", False: ": MISSED", None: ""}[record.holds]
    goal = f" ({record.goal}{verdict})" if record.goal else ""
    print(
        f"{record.benchmark}: {record.what}: {record.ours:.4g} {record.unit} against"
        f" {record.other:.4g} of {record.other_is}: {record.ratio:.3g}{goal}",
        flush=True,
    )
    if file is not None:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(record)) + "\n")


def read_records(file: Path) -> list[Record]:
    """Return the records that were added to a file; none where there is no file."""
    if not file.exists():
        return []
    return [Record(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def as_json(record: Record) -> dict[str, Any]:
    """Return a record with what follows from it."""
    return asdict(record) | {"ratio": record.ratio, "goal": record.goal, "holds": record.holds}
