"""Which QuPath is installed, found the way paquo finds it, without starting Java."""

from __future__ import annotations

import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qupath_bridge.errors import ProjectError

HOW_TO_SET = "set PAQUO_QUPATH_DIR, or qupath_dir in .paquo.toml, to QuPath's folder"


@dataclass(frozen=True)
class QuPathInstallation:
    """One installed QuPath; `jvm` is the library of the Java that comes with it."""

    path: Path
    version: str | None
    jvm: Path

    def __str__(self) -> str:
        return f"QuPath {self.version or '(version unknown)'} at {self.path}"


def find_qupath() -> QuPathInstallation | None:
    """Return the installed QuPath that paquo would take, None where there is none.

    Raises:
        ProjectError: one was named in the settings, but it is none; or the settings are broken.
    """
    settings = paquo_settings()
    from paquo.jpype_backend import find_qupath as find

    try:
        info = find(**settings)
    except (OSError, ValueError) as error:
        named = settings.get("qupath_dir")
        if not named:
            return None
        raise ProjectError(
            f"there is no QuPath in {named}, which PAQUO_QUPATH_DIR or .paquo.toml names;"
            f" {HOW_TO_SET}"
        ) from error
    root = info.app_dir.parent if sys.platform == "win32" else info.app_dir.parent.parent
    return QuPathInstallation(root, _version_in(info.app_dir), info.jvm_path)


def paquo_settings() -> dict[str, Any]:
    """Return paquo's settings as they are now, in the environment and in .paquo.toml.

    Raises:
        ProjectError: .paquo.toml is broken.
    """
    from paquo import _config

    try:
        # A fresh reading: paquo's own is made once per process.
        return dict(_config.to_kwargs(_config._get_settings()))
    except (OSError, ValueError) as error:
        raise ProjectError(f"paquo's settings are broken ({error}); mend .paquo.toml") from error


def _version_in(app_dir: Path) -> str | None:
    jars = sorted(app_dir.glob("qupath-core-[0-9]*.jar"))
    for jar in jars:
        match = re.fullmatch(r"qupath-core-(\d[\w.+-]*)\.jar", jar.name)
        return _version_inside(jar) or (match[1] if match else None)
    return None


def _version_inside(jar: Path) -> str | None:
    try:
        with zipfile.ZipFile(jar) as archive:
            manifest = archive.read("META-INF/MANIFEST.MF").decode("utf-8", "replace")
    except (OSError, KeyError, zipfile.BadZipFile):
        return None
    match = re.search(r"^Implementation-Version:\s*(\S+)", manifest, re.MULTILINE)
    return match[1] if match else None
