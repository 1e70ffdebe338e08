"""Folders that results are written into: found unfit before work begins, and told in a sentence."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.errors import ModelError


def make_output(folder: Path) -> None:
    """Make a folder for results, if it is not there, and find out whether files can be written.

    Raises:
        ModelError: they cannot.
    """
    with writing_into(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=".pathsegdiff-") as probe:
            probe.write(b"\0")


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """Tell in a sentence what the system refuses while results are written into a folder.

    Raises:
        ModelError: the system refused to write.
    """
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"cannot write into {folder} ({error.strerror or error}); make room or make the folder"
            " writable, or pass another with --output"
        ) from error
