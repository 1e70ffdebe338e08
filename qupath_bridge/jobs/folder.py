"""A job's folder: what was asked for, and what came of it.

jobs/<id>/
    request.json      what was asked for, paths and model found
    bands.json        how much was computed when a server last died
    checkpoint/       what is computed of it so far, for who goes on after an end of the server
    result.tmp/       a result under way
    result/           the result, there whole or not at all
        summary.json, detections.geojson.gz, class_areas.json, class_areas.tsv, overlay.png
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qupath_bridge.disk import to_disk, write_text
from qupath_bridge.errors import DiskFullError, ProjectError


@dataclass(frozen=True)
class JobFolder:
    """The folder of one job."""

    path: Path

    @property
    def request(self) -> Path:
        return self.path / "request.json"

    @property
    def work(self) -> Path:
        """Return where a result is put together."""
        return self.path / "result.tmp"

    @property
    def checkpoint(self) -> Path:
        """Return where is kept what is computed so far."""
        return self.path / "checkpoint"

    @property
    def result(self) -> Path:
        return self.path / "result"

    @property
    def detections(self) -> Path:
        """Return the FeatureCollection, gzipped."""
        return self.result / "detections.geojson.gz"

    @property
    def class_areas(self) -> Path:
        return self.result / "class_areas.json"

    @property
    def table(self) -> Path:
        return self.result / "class_areas.tsv"

    @property
    def overlay(self) -> Path:
        return self.result / "overlay.png"

    def write_request(self, content: Mapping[str, Any]) -> None:
        """Make the folder and keep what was asked for.

        Raises:
            DiskFullError: the system refused to write; nothing is left.
        """
        try:
            self.path.mkdir(parents=True)
            write_text(self.request, dumped(content))
            to_disk(self.path.parent)
        except (OSError, ProjectError) as error:
            self.remove()
            reason = error if isinstance(error, OSError) else error.__cause__
            raise DiskFullError(
                f"the job cannot be kept in {self.path.parent} ({reason}); make room on its disk"
            ) from error

    def read_request(self) -> dict[str, Any]:
        """Return what was asked for.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        content: dict[str, Any] = json.loads(self.request.read_text(encoding="utf-8"))
        return content

    def begin_result(self) -> Path:
        """Return a fresh folder for a result under way."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        return self.work

    def keep_result(self, summary: Mapping[str, Any]) -> None:
        """Make what was put together the result, with a summary: from now on the job is done."""
        write_text(self.work / "summary.json", dumped(summary))
        to_disk(self.work)
        self.work.rename(self.result)
        to_disk(self.path)

    def read_summary(self) -> dict[str, Any] | None:
        """Return the summary of the result; None where there is no result."""
        try:
            content = json.loads((self.result / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def has_advanced(self) -> bool:
        """Return whether more is computed of it than when this was asked last; at first, if any."""
        done, note = sum(1 for _ in self.checkpoint.glob("band-*")), self.path / "bands.json"
        try:
            known = int(note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = 0
        with suppress(ProjectError):  # a full disk: then it counts as advanced next time too
            write_text(note, str(done))
        return done > known

    def clear_work(self) -> None:
        """Take away a result under way."""
        shutil.rmtree(self.work, ignore_errors=True)

    def clear_unfinished(self) -> None:
        """Take away what was computed so far: the job will not go on."""
        self.clear_work()
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def remove(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self.path, ignore_errors=True)

    def size_bytes(self) -> int:
        """Return how much disk it takes."""
        return sum(
            os.lstat(Path(folder) / name).st_size
            for folder, _, names in os.walk(self.path)
            for name in names
        )


def dumped(content: Mapping[str, Any]) -> str:
    """Return JSON as short as it goes: a request can hold a million points.

    ASCII: the path of an image may hold bytes that are no text.
    """
    return json.dumps(content, separators=(",", ":"), allow_nan=False)
