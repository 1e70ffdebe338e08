"""Our scripts on QuPath's script menu: put there, brought up to date, taken away.

    <project>/scripts/PathSegDiff/*.groovy             or, for every project,
    <QuPath's user folder>/scripts/PathSegDiff/*.groovy
    HOME/groovy/*.groovy        what they share, and folders.json: where scripts were put
    HOME/launcher.json          how they start the server

A file that we did not make is never touched. Of one that the user changed, settings are kept, and
changed code is put aside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from qupath_bridge import __version__
from qupath_bridge.disk import replacing, write_text
from qupath_bridge.errors import ProjectError, SettingsError
from qupath_bridge.known_projects import own_folder
from qupath_bridge.launcher import FILE as LAUNCHER
from qupath_bridge.launcher import write_launcher
from qupath_bridge.project.qpproj import find_project_file
from qupath_bridge.script_text import filled, read_installed

MENU = "PathSegDiff"
OLDEST = (0, 5)
RECORD = "folders.json"


def script_folders(project: Path | None, user_dir: Path | None) -> list[Path]:
    """Return the folders in which QuPath looks for scripts, ours within.

    Raises:
        ProjectError: the project is none.
        SettingsError: the user folder is none, or none was found.
    """
    if project is not None:
        return [find_project_file(project).parent / "scripts" / MENU]
    if user_dir is not None and not user_dir.is_dir():
        raise SettingsError(
            f"{user_dir} is no folder; give the user folder that QuPath's preferences name"
        )
    users = [user_dir] if user_dir is not None else sorted(_default_user_folders())
    if not users:
        raise SettingsError(
            f"QuPath has no user folder in {Path.home() / 'QuPath'}; start QuPath once, or pass"
            " --user-dir with the folder that its preferences name, or --project"
        )
    return [folder.absolute() / "scripts" / MENU for folder in users]


def install_scripts(folders: Sequence[Path], home: Path) -> Iterator[str]:
    """Put the scripts into folders, and what they need into `home`; yield what was done.

    Raises:
        ProjectError: a file of somebody else's is in the way (then nothing was written), or the
            system refused to write.
    """
    home = home.absolute()
    wanted = [(home / "groovy", _templates("shared")), *((f, _templates("")) for f in folders)]
    for folder, templates in wanted:
        _refuse_foreign(folder, templates)
    try:
        own_folder(home)
        for folder, templates in wanted:
            yield from _put(folder, templates, home)
            yield f"{folder}: {len(templates)} files"
        _record(home, {*_recorded(home), *folders})
        write_launcher(home, _launcher_options(home))
    except OSError as error:
        raise ProjectError(
            f"cannot write {error.filename or home} ({error.strerror or error}); make its folder"
            " writable or make room on its disk, then install again"
        ) from error


def uninstall_scripts(folders: Sequence[Path] | None, home: Path) -> Iterator[str]:
    """Take the scripts away from folders, or from wherever they were put; yield what was done.

    With the last of them goes what they share. What the user changed in code stays, and so does
    every file that is not ours.

    Raises:
        ProjectError: the system refused.
    """
    home = home.absolute()
    recorded = _recorded(home)
    try:
        for folder in recorded if folders is None else folders:
            yield from _take(folder, _templates(""))
        left = [] if folders is None else [f for f in recorded if f not in folders]
        if left:
            _record(home, set(left))
            return
        (home / "groovy" / RECORD).unlink(missing_ok=True)
        yield from _take(home / "groovy", _templates("shared"))
        (home / LAUNCHER).unlink(missing_ok=True)
    except OSError as error:
        raise ProjectError(
            f"cannot remove {error.filename} ({error.strerror or error}); make its folder writable"
        ) from error


def _default_user_folders() -> Iterator[Path]:
    """Yield the folders that QuPath offers as its user folder, one for each version in use."""
    for folder in (Path.home() / "QuPath").glob("v*.*"):
        version = re.fullmatch(r"v(\d+)\.(\d+)", folder.name)
        if version and (int(version[1]), int(version[2])) >= OLDEST and folder.is_dir():
            yield folder


def _templates(folder: str) -> dict[str, str]:
    """Return the scripts of a folder of the package by their file names."""
    found = files("groovy_scripts").joinpath(folder) if folder else files("groovy_scripts")
    scripts = [item for item in found.iterdir() if item.name.endswith(".groovy")]
    return {item.name: item.read_text(encoding="utf-8") for item in scripts}


def _refuse_foreign(folder: Path, templates: dict[str, str]) -> None:
    for name in templates:
        path = folder / name
        if path.exists() and read_installed(_read(path)) is None:
            raise ProjectError(
                f"{path} was not put there by us; move it elsewhere, then install again"
            )


def _put(folder: Path, templates: dict[str, str], home: Path) -> Iterator[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, template in templates.items():
        path = folder / name
        settings: dict[str, str] = {}
        if path.exists() and (found := read_installed(_read(path))):
            settings = {} if found.is_untouched else found.settings
            if settings:
                yield f"{path}: settings were kept"
            if not found.code_is_ours:
                yield f"{path}: was changed, and kept as {_put_aside(path).name}"
        with replacing(path) as beside:
            beside.write_text(filled(template, str(home), __version__, settings), encoding="ascii")


def _take(folder: Path, templates: dict[str, str]) -> Iterator[str]:
    """Remove our files of these names, and the folder if nothing else is in it."""
    removed = 0
    for path in map(folder.joinpath, templates):
        found = read_installed(_read(path)) if path.exists() else None
        if found and found.code_is_ours:
            path.unlink()
            removed += 1
        elif path.exists():
            yield f"{path}: stays, since it was changed"
    with suppress(OSError):  # not empty, or not there
        folder.rmdir()
    yield f"{folder}: {removed} files removed"


def _put_aside(path: Path) -> Path:
    """Move a changed script to a name that QuPath's menu does not show; return it."""
    beside = path.with_name(f"{path.name}.yours")
    number = 2
    while beside.exists():
        beside = path.with_name(f"{path.name}.yours{number}")
        number += 1
    return path.rename(beside)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _recorded(home: Path) -> list[Path]:
    """Return where scripts were put, as far as is known."""
    try:
        raw = json.loads((home / "groovy" / RECORD).read_text(encoding="utf-8"))
        return [Path(folder) for folder in raw["folders"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _record(home: Path, folders: set[Path]) -> None:
    text = json.dumps({"folders": sorted(str(folder) for folder in folders)}, indent=1)
    write_text(home / "groovy" / RECORD, text + "\n")


def _launcher_options(home: Path) -> list[str]:
    """Return the options with which the server was last started by hand: they go on to count."""
    try:
        command = json.loads((home / LAUNCHER).read_text(encoding="utf-8"))["command"]
        return [str(word) for word in command[command.index("serve") + 1 :]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
