"""One process at a time writes the results of a project."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qupath_bridge.errors import ProjectError
from qupath_bridge.lock import ProcessLock

NAME = "run.lock"
WITHOUT_LOCKS = {
    getattr(errno, name, None) for name in ("ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP")
} - {None}
"""What a file system says that has no locks: some of a network, some of a container."""


@contextmanager
def writing(project_folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Be the only process that writes a project; however it ends, the next one can begin.

    Where the file system has no locks, that is said, and nobody is kept off.

    Raises:
        ProjectError: another process is writing it, or the folder cannot be written.
    """
    folder = project_folder / "pathsegdiff"
    lock = ProcessLock(folder / NAME)
    try:
        folder.mkdir(exist_ok=True)
        if not lock.take():
            raise ProjectError(_refusal(project_folder, lock))
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise ProjectError(
                f"cannot write into {folder} ({error.strerror or error}); make the folder"
                " writable, or copy the project elsewhere"
            ) from error
        say(
            f"the file system of {folder} has no locks ({error.strerror or error}): nothing keeps"
            " off a second run on this project, so do not start one"
        )
    try:
        yield
    finally:
        lock.release()


def _refusal(project_folder: Path, lock: ProcessLock) -> str:
    holder = lock.holder() or "a process that left no note of itself"
    return (
        f"{project_folder} is being written by {holder}; wait until it is done, or end it, then"
        " run again"
    )
