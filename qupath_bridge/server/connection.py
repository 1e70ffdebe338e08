"""`connection.json`: how the scripts and the page's link find a running server and its token."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from qupath_bridge.errors import ServerError
from qupath_bridge.known_projects import own_folder

FILE = "connection.json"
START_ONE = "start one: qupath-pathsegdiff serve"


@dataclass(frozen=True)
class Connection:
    """Where a server is, what opens it, and which process it is."""

    url: str
    token: str = field(repr=False)
    pid: int
    version: str


def write_connection(home: Path, connection: Connection) -> None:
    """Write a server's connection for its user's eyes alone, whole or not at all.

    Raises:
        ServerError: the folder belongs to somebody else, or the system refused.
    """
    write_private(home / FILE, json.dumps(asdict(connection)) + "\n")


def read_connection(home: Path) -> Connection:
    """Return the connection of the server that runs.

    Raises:
        ServerError: there is none, its process is gone, or the file is somebody else's, cannot
            be read or is malformed.
    """
    path = home / FILE
    try:
        _check_owner(path)
        raw = json.loads(path.read_text(encoding="utf-8"))
        connection = Connection(
            str(raw["url"]), str(raw["token"]), int(raw["pid"]), str(raw["version"])
        )
    except FileNotFoundError:
        raise ServerError(f"no server runs (there is no {path}); {START_ONE}") from None
    except OSError as error:
        reason = error.strerror or error
        raise ServerError(
            f"{path} cannot be read ({reason}); give yourself the right to read it, or remove it"
            f" and {START_ONE}"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ServerError(
            f"{path} is not what a server writes; remove it and {START_ONE}"
        ) from error
    if not is_alive(connection.pid):
        raise ServerError(
            f"no server runs: process {connection.pid}, which wrote {path}, is gone; {START_ONE}"
        )
    return connection


def remove_connection(home: Path, connection: Connection) -> None:
    """Remove the connection file if it is still this one."""
    with suppress(OSError, ServerError, ValueError):
        if json.loads((home / FILE).read_text(encoding="utf-8")) == asdict(connection):
            (home / FILE).unlink()


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600, swapped in whole; the folder is made, of mode 0700, if missing.

    Raises:
        ServerError: the system refused.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        own_folder(path.parent)
        beside.unlink(missing_ok=True)
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise ServerError(
            f"cannot write {path} ({error.strerror or error}); make the folder yours and writable,"
            " or set QUPATH_PATHSEGDIFF_HOME to another"
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Return whether a process of this user has this number."""
    if pid <= 0:
        return False
    if sys.platform == "win32":
        return _is_alive_on_windows(pid)
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):  # gone, or somebody else's
        return False
    return True


def _is_alive_on_windows(pid: int) -> bool:
    # os.kill would end it. The right to ask for its state is enough to know that it is there.
    import ctypes

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    handle = kernel.OpenProcess(0x1000, False, pid)
    if not handle:
        return False
    code = ctypes.c_ulong()
    known = kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.CloseHandle(handle)
    return bool(known) and code.value == 259  # still active


def _check_owner(path: Path) -> None:
    """Raise ServerError if the file is another user's: its server would get to see our images."""
    if not hasattr(os, "getuid"):
        return
    owner = path.stat().st_uid
    if owner not in (os.getuid(), 0):
        raise ServerError(
            f"{path} belongs to another user (number {owner}); set QUPATH_PATHSEGDIFF_HOME to a"
            f" folder of your own and {START_ONE}"
        )
