"""The project file `project.qpproj` and the small JSON files beside each image's data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qupath_bridge.errors import ProjectError
from qupath_bridge.project.base import ProjectImage
from qupath_bridge.project.serverspec import against_pixels, mpp_of, read_server, size_of
from qupath_bridge.project.uris import find_file, path_of_uri

OLDEST, NEWEST = (0, 2), (0, 7)
"""The versions of QuPath whose project files are known here."""


@dataclass(frozen=True)
class Entry:
    """One image entry as the project file has it; `builder` is the server builder's JSON."""

    entry_id: str
    name: str
    builder: Any


@dataclass(frozen=True)
class ProjectFile:
    """A project file, read. `saved_as` is the URI it had when it was last saved."""

    path: Path
    version: str | None
    saved_as: str | None
    entries: tuple[Entry, ...]


def find_project_file(path: Path) -> Path:
    """Return the .qpproj file that `path`, itself one or the folder of one, stands for.

    Raises:
        ProjectError: there is none, or the folder has several.
    """
    path = path.expanduser().absolute()
    if path.is_file():
        return path
    if not path.is_dir():
        raise ProjectError(f"{path} does not exist; give a .qpproj file or its folder")
    found = sorted(p for p in path.glob("*.qpproj") if p.is_file())
    if not found:
        raise ProjectError(f"{path} has no .qpproj file; give a QuPath project or its folder")
    if len(found) > 1:
        names = ", ".join(p.name for p in found)
        raise ProjectError(f"{path} has several projects ({names}); give the one you mean")
    return found[0]


def read_project_file(path: Path) -> ProjectFile:
    """Return what a project file says.

    Raises:
        ProjectError: it is not a project, is broken, or is older than this program knows.
    """
    content = _read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ProjectError(f"{path} is not a QuPath project; give a project's .qpproj file")
    version = content.get("version")
    known = version_of(version)
    if (known and known < OLDEST) or (known is None and "lastID" not in content):
        said = f"QuPath {version}" if version else "an early QuPath"
        raise ProjectError(f"{path} was saved by {said}; open and save it in QuPath 0.2 or newer")
    entries = tuple(_entry(path, raw) for raw in content["images"])
    return ProjectFile(path, version, content.get("uri"), entries)


def version_of(text: object) -> tuple[int, int] | None:
    """Return (major, minor) of a QuPath version such as "0.5.1" or "v0.2.0-m4", if it is one."""
    match = re.match(r"v?(\d+)\.(\d+)", text) if isinstance(text, str) else None
    return (int(match[1]), int(match[2])) if match else None


def image_of(project: ProjectFile, entry: Entry) -> ProjectImage:
    """Return what the project knows of one of its images; looks for the file, opens none."""
    data = project.path.parent / "data" / entry.entry_id
    spec = read_server(entry.builder)
    server = _read_quietly(data / "server.json")
    summary = _read_quietly(data / "summary.json")
    metadata = spec.metadata or server.get("metadata") or {}
    stored = path_of_uri(spec.uri) if spec.uri else None
    old = path_of_uri(project.saved_as) if project.saved_as else None
    found = find_file(stored, old, project.path.parent) if stored else None
    return ProjectImage(
        entry_id=entry.entry_id,
        name=entry.name,
        path=found.path if found else Path(entry.name),
        mpp=mpp_of(metadata),
        size_l0=size_of(metadata),
        unsupported=spec.unsupported or against_pixels(metadata, summary.get("imageType")),
    )


def objects_recorded(project_folder: Path, entry_id: str) -> int:
    """Return how many objects an image had when QuPath last saved it, as far as is known."""
    summary = _read_quietly(project_folder / "data" / entry_id / "summary.json")
    hierarchy = summary.get("hierarchy")
    count = hierarchy.get("nObjects") if isinstance(hierarchy, Mapping) else None
    return max(count - 1, 0) if isinstance(count, int) else 0  # the root object counts there


def _entry(path: Path, raw: Any) -> Entry:
    if not isinstance(raw, dict) or not isinstance(raw.get("entryID"), int):
        raise ProjectError(f"{path} has an image without an entryID; mend it in QuPath")
    entry_id = str(raw["entryID"])
    name = raw.get("imageName")
    return Entry(entry_id, str(name) if name else f"Image {entry_id}", raw.get("serverBuilder"))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ProjectError(
            f"{path} is broken: {error.msg} in line {error.lineno}, column {error.colno};"
            f" QuPath keeps the last good one as {path.name}.backup"
        ) from error
    except UnicodeDecodeError as error:
        raise ProjectError(
            f"{path} is not a QuPath project; give a project's .qpproj file"
        ) from error
    except OSError as error:
        raise ProjectError(f"cannot read {path} ({error.strerror or error})") from error


def _read_quietly(path: Path) -> Mapping[str, Any]:
    """Return a JSON object that is good to have; an empty one where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
