"""The projects that the user opened through us: a server may read the images in their folders."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from model.home import home
from qupath_bridge.disk import write_text
from qupath_bridge.errors import ProjectError

REMEMBERED = 200
FILE = "projects.json"


def remember_project(project: Path) -> None:
    """Note the folder of a project, a .qpproj file or its folder, as one that the user opened.

    The newest comes first, and of very many the oldest are forgotten. What cannot be written is
    let go: the user can still name the folder with `serve --root`.
    """
    with suppress(OSError, ProjectError):
        folder = (project if project.is_dir() else project.parent).resolve()
        file = own_folder(home()) / FILE
        folders = [folder, *(known for known in known_folders() if known != folder)]
        text = json.dumps({"folders": [os.fspath(f) for f in folders[:REMEMBERED]]}, indent=1)
        write_text(file, text + "\n")


def known_folders() -> list[Path]:
    """Return the folders of the projects that were remembered, newest first."""
    try:
        folders = json.loads((home() / FILE).read_text(encoding="utf-8"))["folders"]
        return [Path(folder) for folder in folders if Path(folder).is_absolute()]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []  # nothing remembered, or not by us


def own_folder(folder: Path) -> Path:
    """Return a folder, made for this user's eyes alone where it was not there."""
    with suppress(FileExistsError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    return folder
