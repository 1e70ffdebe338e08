"""One image's `data.qpdata`: read only when it is whole, replaced whole or not at all.

QuPath's own reader loops for ever on a file that was cut short, and takes an empty or missing one
for an image without objects. So the file is first drained here, object by object, in the order in
which QuPath writes them, and must end with the end mark that QuPath writes last.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jpype

from qupath_bridge.disk import replacing, write_text
from qupath_bridge.errors import ImageDataError, ProjectError
from qupath_bridge.project.jvm import cause_of, java_class, message_of
from qupath_bridge.project.qpproj import objects_recorded

NAME = "data.qpdata"
BACKUP = "data.qpdata.before-pathsegdiff"
QUPATH_BACKUPS = ("data.qpdata.bkp", "data.qpdata.backup", BACKUP)
JAVA_MAGIC = b"\xac\xed\x00\x05"


class Signature(NamedTuple):
    """What changes when somebody else writes the file; both are 0 where there is no file."""

    size_bytes: int
    mtime_ns: int


class Stored(NamedTuple):
    """What a file holds: QuPath's hierarchy, and its history (a Workflow; None without a file)."""

    hierarchy: Any
    history: Any = None


def signature_of(path: Path) -> Signature:
    """Return a file's size and time of change."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return Signature(0, 0)
    return Signature(found.st_size, found.st_mtime_ns)


def read_stored(project_folder: Path, entry_id: str) -> Stored:
    """Return what is stored of an image; an empty hierarchy for an image never opened.

    Raises:
        ImageDataError: the file is damaged, or missing where there was one; it is left as it is.
    """
    hierarchy = java_class("qupath.lib.objects.hierarchy.PathObjectHierarchy")()
    path = project_folder / "data" / entry_id / NAME
    if path.exists():
        stored = drain(path)
        # A deserialised hierarchy works only after it was handed to a new one.
        hierarchy.setHierarchy(stored.hierarchy)
        return Stored(hierarchy, stored.history)
    count = objects_recorded(project_folder, entry_id)
    if count or _backup_of(path) is not None:
        held = f"it held {count} objects" if count else "it was there"
        raise ImageDataError(f"{path} is missing although {held}; {_remedy(path)}")
    return Stored(hierarchy)


def drain(path: Path) -> Stored:
    """Return what stands in a file, after reading the file to its end mark.

    Raises:
        ImageDataError: the file is empty, cut short, or not QuPath's.
    """
    with path.open("rb") as file:
        start = file.read(len(JAVA_MAGIC))
    if start != JAVA_MAGIC:
        raise _damaged(path, "not QuPath's" if start else "empty")
    try:
        with closing(java_class("java.io.FileInputStream")(str(path))) as stream:
            stored = _stored_in(stream)
    except jpype.JException as error:
        cut = isinstance(cause_of(error), java_class("java.io.EOFException"))
        raise _damaged(path, "cut short" if cut else message_of(error)) from error
    if stored.hierarchy is None:
        raise _damaged(path, "without objects")
    return stored


def restore_history(image_data: Any, history: Any) -> None:
    """Put an image's history back as it was stored, where it was stored.

    QuPath 0.6 and later put two steps before the history whenever they read an image's data (its
    type and its stains, as if they were set anew) and often one behind it.
    """
    if history is not None:
        image_data.getHistoryWorkflow().clear()
        image_data.getHistoryWorkflow().addSteps(history.getSteps())


def back_up(project_folder: Path, entry_id: str) -> None:
    """Copy an image's file beside itself, in place of the copy that an earlier run made."""
    path = project_folder / "data" / entry_id / NAME
    if not path.exists():
        return
    with replacing(path.with_name(BACKUP)) as beside:
        shutil.copyfile(path, beside)


def write_image_data(path: Path, image_data: Any, seen: Signature) -> None:
    """Put an image's data in place of its file, after reading back what was written.

    `seen` is what the file was when it was read.

    Raises:
        ProjectError: it could not be written, or the file was changed in between; the file is
            left as it is.
    """
    with replacing(path) as beside, _java_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(java_class("java.io.FileOutputStream")(str(beside))) as stream:
            java_class("qupath.lib.io.PathIO").writeImageData(stream, image_data)
        written = drain(beside).hierarchy
        if _count(written) != _count(image_data.getHierarchy()):
            raise ProjectError(f"{path} could not be written whole; it was left as it is")
        if signature_of(path) != seen:
            raise ProjectError(
                f"{path} was changed by another program during the run; it was left as it is."
                " Close the project in QuPath and run again"
            )


def write_summary(path: Path, image_data: Any) -> None:
    """Write `summary.json` beside the data, as QuPath does whenever it saves."""
    summary_class = java_class("qupath.lib.projects.DefaultProject$ImageDataSummary")
    make = summary_class.class_.getDeclaredConstructors()[0]
    make.setAccessible(True)
    timestamp = java_class("java.lang.Long").valueOf(path.stat().st_mtime_ns // 1_000_000)
    gson = java_class("qupath.lib.io.GsonTools").getInstance()
    text = str(gson.toJson(make.newInstance(image_data, timestamp)))
    write_text(path.with_name("summary.json"), text)


def _stored_in(stream: Any) -> Stored:
    buffered = java_class("java.io.BufferedInputStream")(stream, 1 << 20)
    # QuPath's own kind of stream: it takes nothing but QuPath's and Java's classes.
    objects = java_class("qupath.lib.io.PathIO").createObjectInputStream(buffered)
    if not str(objects.readUTF()).startswith("Data file version"):
        return Stored(None)
    hierarchy_class = java_class("qupath.lib.objects.hierarchy.PathObjectHierarchy")
    history_class = java_class("qupath.lib.plugins.workflow.Workflow")
    # Called by reflection, readObject sees a caller that knows QuPath's classes.
    read = java_class("java.io.ObjectInputStream").class_.getMethod("readObject")
    hierarchy = history = None
    while True:
        item = read.invoke(objects)
        if isinstance(item, hierarchy_class):
            hierarchy = item
        elif isinstance(item, history_class):
            history = item
        elif isinstance(item, java_class("java.lang.String")) and str(item) == "EOF":
            return Stored(hierarchy, history)


def _damaged(path: Path, what: str) -> ImageDataError:
    return ImageDataError(f"{path} is damaged ({what}) and was left as it is; {_remedy(path)}")


def _remedy(path: Path) -> str:
    spare = _backup_of(path)
    source = f"{spare.name} beside it" if spare else "a backup"
    return f"restore it from {source}, or delete {path.parent} to begin that image anew"


def _backup_of(path: Path) -> Path | None:
    return next((p for p in map(path.with_name, QUPATH_BACKUPS) if p.exists()), None)


def _count(hierarchy: Any) -> int:
    return int(hierarchy.getRootObject().nDescendants())


@contextmanager
def _java_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except jpype.JException as error:
        raise ProjectError(
            f"cannot write {path} ({message_of(error)}); it was left as it is. Make the folder"
            " writable or make room on its disk, then run again"
        ) from error
