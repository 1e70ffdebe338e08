"""The project's list of classes, `classifiers/classes.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from qupath_bridge.disk import write_text
from qupath_bridge.errors import ProjectError


def add_classes(project_folder: Path, classes: Sequence[tuple[str, int | None]]) -> None:
    """Add the classes that the list lacks at its end; what is there stays as it is.

    Each class is a name and its colour, packed into one signed number as QuPath has it.

    Raises:
        ProjectError: the list is broken, or cannot be written.
    """
    path = project_folder / "classifiers" / "classes.json"
    content = _read(path)
    present = {known.get("name") for known in content["pathClasses"]}
    missing = [(name, color) for name, color in classes if name not in present]
    if not missing:
        return
    content["pathClasses"] += [{"name": name, "color": color} for name, color in missing]
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise ProjectError(f"cannot make {path.parent} ({error.strerror})") from error
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False))


def read_classes(project_folder: Path) -> dict[str, tuple[int, int, int] | None]:
    """Return the project's classes in its order, each with its colour where it has one.

    Raises:
        ProjectError: the list is broken.
    """
    content = _read(project_folder / "classifiers" / "classes.json")
    return {
        str(known["name"]): rgb_of(known.get("color"))
        for known in content["pathClasses"]
        if known.get("name")
    }


def rgb_of(packed: object) -> tuple[int, int, int] | None:
    """Return (r, g, b) of a colour as QuPath packs it into one signed number; None of no number."""
    if not isinstance(packed, int) or isinstance(packed, bool):
        return None
    return packed >> 16 & 255, packed >> 8 & 255, packed & 255


def _read(path: Path) -> dict[str, list[dict[str, object]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if all(isinstance(known, dict) for known in content["pathClasses"]):
            return content
    except FileNotFoundError:
        return {"pathClasses": []}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProjectError(f"{path} is broken ({error}); mend it in QuPath") from error
    raise ProjectError(f"{path} is broken; mend it in QuPath")
