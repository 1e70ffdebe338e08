"""A QuPath project reached without QuPath: its JSON, and annotations as QuPath exports them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qupath_bridge.errors import ProjectError
from qupath_bridge.project.base import Annotation, ImageWrite, ProjectImage, Suggestion
from qupath_bridge.project.geojson_objects import read_annotations
from qupath_bridge.project.qpproj import NEWEST, image_of, read_project_file, version_of
from qupath_bridge.suggestions import suggestions_path, write_suggestions

REGION_FILES = ("regions.geojson", "regions.geojson.gz")
EXPORT_AGAIN = "export the annotations from QuPath again (File > Export objects as GeoJSON)"


class PortableProject:
    """A project as its files describe it; nothing of QuPath's own is ever written.

    Annotations come from `pathsegdiff/<entry id>/regions.geojson` in the project's folder.

    Raises:
        ProjectError: the project is broken, or of a version not known here.
    """

    backend = "portable"

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        self._file = read_project_file(path)
        version = version_of(self._file.version)
        if version and version > NEWEST:
            raise ProjectError(
                f"{path} was saved by QuPath {self._file.version}; without QuPath, projects up to"
                f" {NEWEST[0]}.{NEWEST[1]} can be read. Set PAQUO_QUPATH_DIR to that QuPath's"
                " folder and run with --backend paquo"
            )

    @property
    def folder(self) -> Path:
        return self.path.parent

    def images(self) -> list[ProjectImage]:
        """Return the project's image entries in its order.

        Raises:
            ProjectError: it has none.
        """
        if not self._file.entries:
            raise ProjectError(f"{self.path} has no images; add some in QuPath")
        return [image_of(self._file, entry) for entry in self._file.entries]

    def read_annotations(self, image: ProjectImage) -> list[Annotation]:
        """Return the annotations exported for an image; none where no such file is.

        Raises:
            ProjectError: the file is there but broken.
        """
        folder = self.folder / "pathsegdiff" / image.entry_id
        path = next((p for p in map(folder.joinpath, REGION_FILES) if p.exists()), None)
        if path is None:
            return []
        try:
            return read_annotations(_read_json(path))
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            raise ProjectError(
                f"{path} is broken in {where}: {error.msg}; {EXPORT_AGAIN}"
            ) from error
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise ProjectError(f"{path} is broken: {error}; {EXPORT_AGAIN}") from error

    def detection_ids(self, image: ProjectImage) -> set[str] | None:
        """Return None: detections live beside the project, as GeoJSON."""
        return None

    def write(self, image: ProjectImage, changes: ImageWrite) -> None:
        """Do nothing: QuPath imports the GeoJSON of detections in one step of its own."""

    def write_suggestions(self, image: ProjectImage, suggestions: Sequence[Suggestion]) -> None:
        """Write `pathsegdiff/<entry id>/suggestions.geojson` for QuPath to import, or remove it.

        Raises:
            ProjectError: the system refused to write.
        """
        write_suggestions(suggestions_path(self.folder, image.entry_id), suggestions)

    def close(self) -> None:
        """Do nothing: no file is kept open."""


def _read_json(path: Path) -> Any:
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    return json.loads(raw.decode("utf-8-sig"))
