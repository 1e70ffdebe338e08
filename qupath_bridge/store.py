"""What runs leave in a project's folder, beside QuPath's own files.

<project folder>/pathsegdiff/
    class_areas.tsv              all images
    run.json                     the last run: settings, model card, versions, outcomes
    run.lock, run.lock.json      locked while a run writes, and by whom; see `project_lock`
    <entry id>/detections.geojson
    <entry id>/result.json       class areas, and what they were made from
    <entry id>/regions.geojson   written by QuPath, read by us
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qupath_bridge.detections import Detection, replaced_by
from qupath_bridge.disk import replacing, write_json
from qupath_bridge.errors import ProjectError
from qupath_bridge.featurecollection import iter_detections, write_collection
from qupath_bridge.measurements import ClassArea

RESULT_FORMAT = 1


@dataclass(frozen=True)
class Made:
    """What a result was made from: equal for equal results.

    engine: which way of making objects; results that name none are of the first.
    """

    model: str
    heads: tuple[str, ...]
    settings: dict[str, Any]
    slide: str
    regions: str
    engine: int = 1


@dataclass(frozen=True)
class StoredResult:
    """One image's result as it is stored."""

    made: Made
    rows: tuple[ClassArea, ...]
    objects: str
    """A digest of the ids of all our detections of the image."""


class ResultStore:
    """The folder `pathsegdiff` of one project."""

    def __init__(self, project_folder: Path) -> None:
        self.folder = project_folder / "pathsegdiff"

    def of(self, entry_id: str) -> Path:
        """Return the folder of one image's results."""
        return self.folder / entry_id

    def detections_path(self, entry_id: str) -> Path:
        """Return where one image's detections are."""
        return self.of(entry_id) / "detections.geojson"

    def read_result(self, entry_id: str) -> StoredResult | None:
        """Return an image's stored result; None where there is none or it cannot be read.

        An unreadable result counts as none: its image is then done again.
        """
        try:
            raw = json.loads((self.of(entry_id) / "result.json").read_text(encoding="utf-8"))
            if raw["format"] != RESULT_FORMAT:
                return None
            made = Made(**{**raw["made"], "heads": tuple(raw["made"]["heads"])})
            rows = tuple(ClassArea(**row) for row in raw["rows"])
            return StoredResult(made, rows, raw["objects"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def read_detections(self, entry_id: str) -> Iterator[Detection]:
        """Yield an image's stored detections, one in memory at a time; none if no file is there.

        Raises:
            ProjectError: the file is there but broken.
        """
        path = self.detections_path(entry_id)
        return iter_detections(path) if path.exists() else iter(())

    def write_detections(self, entry_id: str, detections: Iterable[Detection]) -> str:
        """Write an image's detections, and take back what was said of earlier ones.

        They may come from what is replaced: if that is broken, all stays as it was. Returns the
        digest of their ids.
        """
        folder = self.of(entry_id)
        folder.mkdir(parents=True, exist_ok=True)
        ids: list[str] = []
        with replacing(self.detections_path(entry_id)) as beside:
            write_collection(beside, _noted(detections, ids))
            (folder / "result.json").unlink(missing_ok=True)
        return digest_of(ids)

    def write_result(self, entry_id: str, result: StoredResult) -> None:
        """Write an image's result: from now on the image counts as done."""
        rows = [asdict(row) for row in result.rows]
        content = {
            "format": RESULT_FORMAT,
            "made": asdict(result.made),
            "rows": rows,
            "objects": result.objects,
        }
        write_json(self.of(entry_id) / "result.json", content)

    @property
    def table(self) -> Path:
        """Return where the class areas of all images are."""
        return self.folder / "class_areas.tsv"

    def read_class_areas(self) -> list[ClassArea]:
        """Return the class areas of all images that have a result, in the order of entries.

        Raises:
            ProjectError: there are no results at all.
        """
        folders = self.folder.glob("*/result.json")
        entries = sorted((p.parent.name for p in folders), key=_numbers_first)
        results = [result for entry in entries if (result := self.read_result(entry))]
        if not results:
            raise ProjectError(f"{self.folder} holds no results; `run` the project first")
        return [row for result in results for row in result.rows]


@dataclass(frozen=True)
class Scope:
    """What one run does anew in an image, and which annotations the image has."""

    heads: Sequence[str]
    region_ids: Sequence[str]
    present_region_ids: Collection[str]

    def kept_detections(self, earlier: Iterable[Detection]) -> Iterator[Detection]:
        """Yield the earlier detections that stay."""
        goes = replaced_by(self.heads, self.region_ids, self.present_region_ids)
        return (detection for detection in earlier if not goes(detection.id))

    def kept_rows(self, earlier: Iterable[ClassArea]) -> list[ClassArea]:
        """Return the earlier class areas that stay: those whose detections do."""
        present = set(self.present_region_ids) - set(self.region_ids)
        return [row for row in earlier if row.head not in self.heads or row.region_id in present]


def digest_of(object_ids: Iterable[str]) -> str:
    """Return a digest of a set of object ids."""
    return hashlib.sha256("\n".join(sorted(i.lower() for i in object_ids)).encode()).hexdigest()


def _noted(detections: Iterable[Detection], ids: list[str]) -> Iterator[Detection]:
    for detection in detections:
        ids.append(detection.id)
        yield detection


def _numbers_first(entry_id: str) -> tuple[int, int, str]:
    return (0, int(entry_id), "") if entry_id.isdecimal() else (1, 0, entry_id)
