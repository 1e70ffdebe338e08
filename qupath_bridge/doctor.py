"""What a run needs, looked at piece by piece."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.card import read_card
from model.home import find_model, home, model_names, models_home
from qupath_bridge.errors import EXPECTED_ERRORS

NEEDED_FREE_GIB = 2.0


@dataclass(frozen=True)
class Finding:
    """One line: fine, worth knowing, or in the way of a run."""

    state: Literal["ok", "note", "bad"]
    topic: str
    text: str

    def line(self) -> str:
        mark = {"ok": "ok  ", "note": "note", "bad": "BAD "}[self.state]
        return f"{mark}  {self.topic:<10} {self.text}"


def examine(project: Path | None = None, model: str = "default") -> list[Finding]:
    """Return what was found about everything a run needs, most basic first."""
    findings: list[Finding] = []
    looks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _torch,
        _openslide,
        _qupath,
        lambda: _model(model),
        _settings_file,
        lambda: _disk(project),
    ]
    if project is not None:
        looks.append(lambda: _project(project))
    for look in looks:
        findings.extend(look())
    return findings


def _python() -> Iterator[Finding]:
    yield Finding("ok", "Python", f"{platform.python_version()} at {sys.executable}")


def _torch() -> Iterator[Finding]:
    try:
        import torch

        from model.device import choose_device
    except (ImportError, OSError) as error:
        yield Finding("bad", "torch", f"does not load ({error}); reinstall the package")
        return
    device = choose_device("auto")
    yield Finding("ok", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        yield Finding("ok", "device", f"{card.name}, {card.total_memory / 2**30:.0f} GiB")
    elif device.type == "mps":
        yield Finding("ok", "device", "Apple GPU (mps)")
    else:
        yield Finding(
            "note", "device", "cpu; for a GPU install a CUDA build of torch where there is one"
        )


def _openslide() -> Iterator[Finding]:
    try:
        import openslide
    except (ImportError, OSError) as error:
        yield Finding("bad", "OpenSlide", f"does not load ({error}); pip install openslide-bin")
        return
    yield Finding("ok", "OpenSlide", str(openslide.__library_version__))


def _qupath() -> Iterator[Finding]:
    from qupath_bridge.project import find_qupath

    try:
        paquo = importlib.metadata.version("paquo")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("bad", "paquo", "is not installed; pip install paquo")
        return
    yield Finding("ok", "paquo", paquo)
    try:
        found = find_qupath()
    except EXPECTED_ERRORS as error:
        yield Finding("bad", "QuPath", str(error))
        return
    if found is None:
        yield Finding(
            "note",
            "QuPath",
            "none found, so projects are reached without it (portable); to write into projects"
            " set PAQUO_QUPATH_DIR to QuPath's folder",
        )
        return
    yield Finding("ok", "QuPath", f"{found.version} at {found.path}")
    if found.jvm is None:
        yield Finding("bad", "JVM", f"none in {found.path}; reinstall QuPath, it brings its own")
    else:
        yield Finding("ok", "JVM", str(found.jvm))


def _model(name: str) -> Iterator[Finding]:
    try:
        from model.weights import verify_files

        folder = find_model(name)
        card = read_card(folder)
        verify_files(folder, card)
    except EXPECTED_ERRORS as error:
        yield Finding("bad", "model", str(error))
        return
    yield Finding(
        "ok", "model", f"{card.name} {card.version}: {', '.join(card.heads)} at {card.mpp} um/px"
    )
    yield Finding("ok", "models", f"{model_names()} (in {models_home()})")


def _settings_file() -> Iterator[Finding]:
    from qupath_bridge.settings import read_settings

    try:
        read_settings({})
    except EXPECTED_ERRORS as error:
        yield Finding("bad", "settings", str(error))
        return
    file = home() / "settings.toml"
    yield Finding("ok", "settings", str(file) if file.is_file() else f"defaults (no {file})")


def _disk(project: Path | None) -> Iterator[Finding]:
    folder = project if project is not None else Path.cwd()
    while not folder.is_dir():
        folder = folder.parent
    free_gib = shutil.disk_usage(folder).free / 2**30
    if not os.access(folder, os.W_OK):
        yield Finding("bad", "disk", f"{folder} is read-only; results could not be written there")
    elif free_gib < NEEDED_FREE_GIB:
        yield Finding("bad", "disk", f"{free_gib:.1f} GiB free at {folder}; make room")
    else:
        yield Finding("ok", "disk", f"{free_gib:.0f} GiB free at {folder}")


def _project(path: Path) -> Iterator[Finding]:
    from qupath_bridge.project import open_project

    try:
        project = open_project(path, "auto")
    except EXPECTED_ERRORS as error:
        yield Finding("bad", "project", str(error))
        return
    try:
        images = project.images()
        yield Finding("ok", "project", f"{project.path}: {len(images)} images, {project.reason}")
        for image in images:
            if image.unsupported:
                yield Finding("bad", "image", f"{image.name}: {image.unsupported}")
            elif not image.path.exists():
                yield Finding("bad", "image", f"{image.name}: {image.path} is missing")
    except EXPECTED_ERRORS as error:
        yield Finding("bad", "project", str(error))
    finally:
        project.close()
