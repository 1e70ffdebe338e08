"""Where an image is: QuPath's URIs, and projects that were moved since they were saved."""

from __future__ import annotations

import ntpath
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit


class Found(NamedTuple):
    """The path of an image file, and whether there is anything."""

    path: Path
    exists: bool


def path_of_uri(uri: str) -> PurePath | None:
    """Return the path that a URI stands for on the system it was written on; None if on none.

    Knows `file:/x`, `file:///x`, `file:/C:/x`, `file://server/share/x`, and plain paths, with or
    without percent-encoding; gives None for `https:` and the like.
    """
    if re.match(r"[A-Za-z]:[\\/]|\\\\", uri):
        return PureWindowsPath(uri)
    parts = urlsplit(uri)
    if not parts.scheme:
        return PurePosixPath(uri)
    if parts.scheme.lower() != "file":
        return None
    # Java leaves letters beyond ASCII as they are; a percent sign always begins an escape.
    path = unquote(parts.path, errors="surrogateescape")
    if parts.netloc and parts.netloc != "localhost":
        return PureWindowsPath(f"//{parts.netloc}{path}")
    if re.match(r"/[A-Za-z]:(/|$)", path):
        return PureWindowsPath(path[1:])
    return PureWindowsPath(path) if path.startswith("//") else PurePosixPath(path)


def find_file(stored: PurePath, old_project: PurePath | None, folder: Path) -> Found:
    """Return where the file is that a project in `folder` calls `stored`.

    `old_project` is the project file where it was last saved. A file at the same place relative
    to the project comes first, so that a moved or copied project uses the images moved or copied
    with it; then the stored path itself, which is also the answer where neither exists.
    """
    candidates = list(_candidates(stored, old_project, folder))
    for path in candidates:
        # macOS writes umlauts in two characters, others in one.
        composed = unicodedata.normalize("NFC", str(path))
        decomposed = unicodedata.normalize("NFD", str(path))
        for there in (path, Path(composed), Path(decomposed)):
            if _exists(there):
                return Found(there, True)
    return Found(candidates[-1], False)


def _candidates(stored: PurePath, old_project: PurePath | None, folder: Path) -> Iterator[Path]:
    relative = _relative(stored, old_project.parent) if old_project else None
    if relative is not None:
        yield Path(os.path.normpath(folder.joinpath(*relative.parts)))
    if not stored.is_absolute():
        yield folder / stored.as_posix()
    else:
        yield Path(stored.as_posix())


def _relative(stored: PurePath, old_folder: PurePath) -> PurePath | None:
    if type(stored) is not type(old_folder) or not stored.is_absolute():
        return None
    flavour = ntpath if isinstance(stored, PureWindowsPath) else posixpath
    try:
        return type(stored)(flavour.relpath(str(stored), str(old_folder)))
    except ValueError:  # two drives
        return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, a share that is gone: not there
        return False
