"""A QuPath project, reached through QuPath (paquo) or without it (portable), with one face.

Nothing here imports paquo or starts Java before a project is opened with the paquo face.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qupath_bridge.errors import ProjectError, SettingsError
from qupath_bridge.project.base import (
    Annotation,
    ImageWrite,
    Project,
    ProjectClass,
    ProjectImage,
)
from qupath_bridge.project.installation import HOW_TO_SET, QuPathInstallation, find_qupath
from qupath_bridge.project.qpproj import find_project_file, read_project_file, version_of

__all__ = [
    "Annotation",
    "BackendChoice",
    "ImageWrite",
    "Project",
    "ProjectClass",
    "ProjectImage",
    "QuPathInstallation",
    "choose_backend",
    "find_project_file",
    "find_qupath",
    "open_project",
]

OLDEST_QUPATH = (0, 4)
"""The first QuPath in which objects can be given their ids."""


@dataclass(frozen=True)
class BackendChoice:
    """Which face a project is opened with, why, and the QuPath it then needs."""

    backend: str
    reason: str
    qupath: QuPathInstallation | None = None


def choose_backend(backend: str = "auto", saved_by: str | None = None) -> BackendChoice:
    """Return which face a project saved by that version of QuPath is opened with.

    Raises:
        SettingsError: there is no such backend.
        ProjectError: paquo was asked for, but there is no QuPath that would do.
    """
    if backend not in ("auto", "paquo", "portable"):
        raise SettingsError(f"there is no backend {backend}; use auto, paquo or portable")
    if backend == "portable":
        return BackendChoice("portable", "portable: asked for")
    try:
        qupath = _fitting_qupath(saved_by)
    except ProjectError as error:
        if backend == "paquo":
            raise ProjectError(f"{error}, or use --backend portable") from error
        return BackendChoice("portable", f"portable: {error}")
    return BackendChoice("paquo", f"paquo: {qupath}", qupath)


def open_project(path: Path, backend: str = "auto") -> Project:
    """Open the project that a .qpproj file, or the folder of one, stands for.

    `backend` is "auto", "paquo" or "portable"; auto takes paquo wherever there is a QuPath for it.

    Raises:
        ProjectError: it is not there, not a project, broken, or of a version that does not fit.
    """
    from qupath_bridge.project.portable import PortableProject

    file = find_project_file(Path(path))
    choice = choose_backend(backend, read_project_file(file).version)
    if choice.qupath is None:
        return PortableProject(file, choice.reason)
    from qupath_bridge.project.jvm import JavaStartError, start_java
    from qupath_bridge.project.paquo_face import PaquoProject

    try:
        start_java(choice.qupath)
    except JavaStartError as error:
        if backend == "paquo":
            raise
        return PortableProject(file, f"portable: {error}")
    return PaquoProject(file, choice.reason)


def _fitting_qupath(saved_by: str | None) -> QuPathInstallation:
    qupath = find_qupath()
    if qupath is None:
        raise ProjectError(f"no QuPath was found; {HOW_TO_SET}")
    installed, saved = version_of(qupath.version), version_of(saved_by)
    if installed and installed < OLDEST_QUPATH:
        raise ProjectError(f"{qupath} is too old, 0.4 is needed; {HOW_TO_SET}")
    if installed and saved and saved > installed:
        raise ProjectError(
            f"the project was saved by QuPath {saved_by}, newer than {qupath}; {HOW_TO_SET}"
        )
    return qupath
