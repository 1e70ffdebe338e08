"""`launcher.json`: the command by which QuPath's scripts start a server where none runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from qupath_bridge import __version__
from qupath_bridge.disk import write_text
from qupath_bridge.known_projects import own_folder

FILE = "launcher.json"


def write_launcher(home: Path, options: Sequence[str] = ()) -> None:
    """Write how `serve` is started with these options, in place of what was there.

    Raises:
        OSError: the home cannot be made.
        ProjectError: the system refused to write.
    """
    # -P: a module in whatever folder QuPath was started in is none of ours.
    command = [sys.executable, "-P", "-m", "qupath_bridge", "serve", *options]
    path = own_folder(home) / FILE
    text = json.dumps({"command": command, "version": __version__}, indent=1)
    write_text(path, text + "\n")
