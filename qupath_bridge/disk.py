"""Files that are replaced whole or not at all, and folders found unfit before work begins."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from qupath_bridge.errors import ProjectError


def check_writable(folder: Path, need_bytes: int) -> None:
    """Find out now whether files of `need_bytes` together can be written into a folder.

    The folder need not exist yet: then its nearest existing parent is looked at.

    Raises:
        ProjectError: it is read-only, or its disk has too little room.
    """
    present = _nearest_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=present, prefix=".pathsegdiff-") as probe:
            probe.write(b"\0")
        free_bytes = shutil.disk_usage(present).free
    except OSError as error:
        raise ProjectError(
            f"cannot write into {present} ({error.strerror or error}); make the folder writable,"
            " make room on its disk, or copy the project elsewhere"
        ) from error
    if free_bytes < need_bytes:
        raise ProjectError(
            f"the disk of {present} has {_mib(free_bytes)} MiB free, but {_mib(need_bytes)} MiB"
            " are needed; make room, or copy the project elsewhere"
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a fresh path beside `path`; what was written there then takes the place of `path`.

    If anything goes wrong, `path` stays as it is and what was written is taken away.

    Raises:
        ProjectError: the system refused to write.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        to_disk(beside)
        if path.exists():
            shutil.copymode(path, beside)
        beside.replace(path)
        to_disk(path.parent)
    except OSError as error:
        raise ProjectError(
            f"cannot write {path} ({error.strerror or error}); it was left as it is."
            " Make the folder writable or make room on its disk, then run again"
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all.

    Raises:
        ProjectError: the system refused to write.
    """
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON to be read by people too, whole or not at all; what JSON does not know is text.

    Raises:
        ProjectError: the system refused to write.
    """
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")


def _nearest_folder(folder: Path) -> Path:
    present = folder.absolute()
    while not present.exists() and present != present.parent:
        present = present.parent
    return present


def to_disk(path: Path) -> None:
    """Return when a file, or what a folder lists, is on the disk itself.

    Raises:
        OSError: the system refused.
    """
    if path.is_dir() and os.name == "nt":
        return  # Windows can neither open nor flush a folder
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _mib(size_bytes: int) -> int:
    return size_bytes // 2**20
