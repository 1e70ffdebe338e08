"""One image's entry in a project, as QuPath has it in Java."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qupath_bridge.project.jvm import java_class
from qupath_bridge.project.qpproj import Entry


def described(entry: Any) -> Entry:
    """Return what the project file says of an entry."""
    builder_class = java_class("qupath.lib.images.servers.ImageServerBuilder$ServerBuilder")
    builder = entry.getServerBuilder()
    gson = java_class("qupath.lib.io.GsonTools").getInstance()
    text = "null" if builder is None else str(gson.toJson(builder, builder_class.class_))
    return Entry(str(entry.getID()), str(entry.getImageName()), json.loads(text))


def point_at(entry: Any, old: Any, path: Path) -> None:
    """Let an entry, in memory only, read the image file at `path` in place of the URI `old`.

    QuPath's own `updateURIs` does that too, but since 0.6 it also writes the entry's
    `server.json`, even where the image then turns out not to be readable.
    """
    new = java_class("java.io.File")(str(path.absolute())).toURI()
    builder = entry.getServerBuilder().updateURIs(java_class("java.util.Map").of(old, new))
    field = entry.getClass().getDeclaredField("serverBuilder")
    field.setAccessible(True)
    field.set(entry, builder)
