"""A training under way, on disk: whole or not at all, and of no use to any other training."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from model.cache import is_abandoned
from model.errors import ModelError


def read_state(path: Path | None) -> dict[str, Any]:
    """Return what was kept; nothing if there is no file or it is damaged."""
    if path is None or not path.exists():
        return {}
    try:
        return dict(torch.load(path, weights_only=True))
    except Exception:  # torch raises anything at all on a damaged file; then it starts anew
        return {}


def _clear_abandoned(path: Path) -> None:
    """Take away what a training left that was killed while it wrote."""
    for part in path.parent.glob(f"{path.stem}.*.part"):
        with suppress(FileNotFoundError):
            if is_abandoned(part.stat()):
                part.unlink()


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Keep a state in place of the one before.

    Raises:
        ModelError: the system refused to write; the one before is still there.
    """
    beside = path.with_suffix(f".{os.getpid()}.part")  # the same may be trained twice at once
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(path)
        torch.save(state, beside)
        beside.replace(path)
    except (OSError, RuntimeError) as error:  # the latter is torch's own, if the disk is full
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"the training could not be kept in {path} ({reason}); make room or make the folder"
            " writable, then run again: it goes on from the last epoch that was kept"
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
