"""What became of each image of a run, for the user and for `run.json`."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from model import ModelCard
from qupath_bridge import __version__
from qupath_bridge.disk import write_json
from qupath_bridge.project.base import Project
from qupath_bridge.settings import RunSettings

REPORTED_PACKAGES = ("torch", "diffusers", "transformers", "numpy", "shapely", "rasterio", "paquo")


@dataclass
class Outcome:
    """What became of one image."""

    entry_id: str
    image: str
    status: Literal["done", "skipped", "failed"] = "done"
    message: str = ""
    warnings: list[str] = field(default_factory=list)
    regions: int = 0
    tiles: int = 0
    objects: int = 0
    seconds: float = 0.0

    def fail(self, message: str) -> None:
        self.status, self.message = "failed", message


@dataclass
class RunReport:
    """What became of all images of a run.

    ended: why the run ended before its last image; "" where it did not.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    interrupted: bool = False
    ended: str = ""
    table: Path | None = None

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status == "failed"]

    def summary(self) -> str:
        """Return the last lines a run prints."""
        counts = {
            s: sum(o.status == s for o in self.outcomes) for s in ("done", "skipped", "failed")
        }
        lines = [f"failed: {o.image}: {o.message}" for o in self.failed]
        if self.table is not None:
            lines.append(f"class areas: {self.table}")
        if self.ended:
            lines.append(f"ended: {self.ended}")
        if self.interrupted:
            lines.append("interrupted; images not listed were not begun or not finished")
        lines.append(" / ".join(f"{count} {status}" for status, count in counts.items()))
        return "\n".join(lines)


def write_run_json(
    folder: Path, settings: RunSettings, card: ModelCard, project: Project, report: RunReport
) -> Path:
    """Write `run.json` into a folder: what was in force and what became of each image."""
    path = folder / "run.json"
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "interrupted": report.interrupted,
        "ended": report.ended,
        "project": project.path.name,
        "backend": project.reason,
        "settings": asdict(settings),
        "versions": versions(),
        "images": [asdict(outcome) for outcome in report.outcomes],
        "model": asdict(card),
    }
    write_json(path, content)
    return path


def versions() -> dict[str, str]:
    """Return the versions of this program, Python and the packages results depend on."""
    found = {"qupath-pathsegdiff": __version__, "python": platform.python_version()}
    for name in REPORTED_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
