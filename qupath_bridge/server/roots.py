"""Which file an image's URI means on this machine, and whether the server may open it."""

from __future__ import annotations

import ntpath
import os
import re
import stat
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from qupath_bridge.errors import ClosedFolderError, ImagePathError, SettingsError
from qupath_bridge.known_projects import known_folders
from qupath_bridge.project.uris import path_of_uri


@dataclass(frozen=True)
class PathMap:
    """Paths below `source`, on the client's machine, are below `target` on this one."""

    source: PurePath
    target: Path

    def apply(self, path: PurePath) -> Path | None:
        """Return where `path` is here; None if it is not below `source`.

        Windows' paths are compared as Windows does, whatever the case and the kind of slash.
        """
        if type(path) is not type(self.source) or not path.is_relative_to(self.source):
            return None
        return self.target.joinpath(*path.relative_to(self.source).parts)


def parse_map(text: str) -> PathMap:
    r"""Return the map of `FROM=TO`, as `C:\slides=/data/slides`.

    Raises:
        SettingsError: it has no two absolute paths.
    """
    for at in (match.start() for match in re.finditer("=", text)):
        source, target = _client_path(text[:at]), Path(text[at + 1 :])
        if "\0" not in text and source.is_absolute() and target.is_absolute():
            return PathMap(source, target)
    raise SettingsError(
        f"--map {text!r} is not FROM=TO with two absolute paths, as --map 'C:\\slides=/data/slides'"
    )


@dataclass(frozen=True)
class Roots:
    """The folders under which images may be opened, and how clients' paths are translated.

    named: given by the user; if none are, the home folder and the folders of the projects that
    were opened through us. maps: the longest prefix wins.
    """

    named: tuple[Path, ...] = ()
    maps: tuple[PathMap, ...] = ()
    remembered: Callable[[], list[Path]] = known_folders

    def folders(self) -> list[Path]:
        """Return the folders, symbolic links resolved."""
        chosen = self.named or (Path.home(), *self.remembered())
        return [Path(os.path.realpath(folder)) for folder in chosen]

    def resolve(self, uri: str) -> Path:
        """Return the file that a URI means here, symbolic links and `..` resolved.

        Raises:
            ImagePathError: it is no path, not below a root, not there, or no file to be read;
                the message names the path that was tried and what to do.
        """
        path = self._translated(_path_in(uri), uri)
        folders = self.folders()
        reals = [_real(form, folders) for form in _spellings(path)]
        allowed = [real for real in reals if _below(real, folders)]
        if not allowed:
            raise self._outside(reals[0], folders)
        for real in allowed:
            if os.path.lexists(real):
                return _readable_file(real)
        raise ImagePathError(
            f"there is no file {_shown(path)} on the server's machine; if the slides lie elsewhere"
            " there, start the server with --map FROM=TO"
        )

    def _outside(self, path: Path, folders: list[Path]) -> ClosedFolderError:
        """Return what is wrong; nothing of whether there is a file outside."""
        return ClosedFolderError(
            f"{_shown(path)} lies outside of the folders this server may read"
            f" ({', '.join(_shown(folder) for folder in folders)});"
            f" start the server with --root {_shown(path.parent)}",
            None if self.named else _shown(path.parent),
        )

    def _translated(self, path: PurePath, uri: str) -> Path:
        fitting = [m for m in self.maps if m.apply(path) is not None]
        if fitting:
            longest = max(fitting, key=lambda m: len(m.source.parts))
            return Path(longest.apply(path) or path)
        if not isinstance(path, type(PurePath())):
            raise ImagePathError(
                f"{_shown(path)} is a path of another system than the server's; start the server"
                f" with --map '{_shown(path.parent)}=/where/that/is/there'"
            )
        if not path.is_absolute():
            raise ImagePathError(
                f"{_shown(path)} (of {_shown(uri)}) is no absolute path; send the image's whole URI"
            )
        return Path(path)


def _path_in(uri: str) -> PurePath:
    try:
        path = path_of_uri(uri)
    except ValueError:
        path = None
    if path is None:
        raise ImagePathError(
            f"{_shown(uri)} is no file: the server opens only file: URIs and paths;"
            " copy the image to a disk that the server sees"
        )
    if "\0" in str(path):
        raise ImagePathError(
            f"{_shown(uri)} holds a NUL character, which no path can; send the image's own URI"
        )
    return _client_path(str(path)) if isinstance(path, PureWindowsPath) else path


def _client_path(text: str) -> PurePath:
    """Return a path of whichever system it is written for; Windows' `..` resolved as it does."""
    if re.match(r"[A-Za-z]:([\\/]|$)|\\\\|//", text):
        windows = ntpath.normpath(text)
        # Or `C:` alone would be no absolute path.
        return PureWindowsPath(f"{windows}\\" if windows.endswith(":") else windows)
    return PurePosixPath(text)


def _spellings(path: Path) -> list[Path]:
    """Return a path as it is, and as systems write it that spell umlauts in one or two letters."""
    forms = [str(path), *(unicodedata.normalize(form, str(path)) for form in ("NFC", "NFD"))]
    return [Path(form) for form in dict.fromkeys(forms)]


def _real(path: Path, folders: list[Path]) -> Path:
    """Return a path with symbolic links and `..` resolved.

    Raises:
        ImagePathError: it cannot be resolved.
    """
    shared = isinstance(path, PureWindowsPath) and path.drive.startswith("\\\\")
    if shared and not _below(path, folders):
        return path  # merely looking at a foreign share sends a password's hash
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise ImagePathError(f"{_shown(path)} is no path that can be opened ({error})") from error


def _below(path: Path, folders: list[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _readable_file(path: Path) -> Path:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImagePathError(f"{_shown(path)} cannot be read by the server ({reason})") from error
    if stat.S_ISDIR(mode):
        raise ImagePathError(f"{_shown(path)} is a folder, not an image; send the image's own URI")
    if not stat.S_ISREG(mode):
        raise ImagePathError(f"{_shown(path)} is a device or a pipe, not a file; send an image's")
    if not os.access(path, os.R_OK):
        raise ImagePathError(
            f"{_shown(path)} may not be read by the user who runs the server;"
            " change the file's permissions"
        )
    return path


def _shown(path: PurePath | str) -> str:
    """Return a path as text that can be sent: of bytes that are no letters, a question mark."""
    text = str(path).encode("utf-8", "replace").decode()
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 500 else f"{text[:240]}...{text[-240:]}"
