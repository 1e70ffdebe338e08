"""A training under way, on disk: whole or not at all, and of no use to any other training."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from model.errors import ModelError


def read_state(path: Path | None) -> dict[str, Any]:
    """Return what was kept; nothing if there is no file or it is damaged."""
    if path is None or not path.exists():
        return {}
    try:
        return dict(torch.load(path, weights_only=True))
    except Exception:  # torch raises anything at all on a damaged file; then it starts anew
        return {}


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Keep a state in place of the one before.

    Raises:
        ModelError: the system refused to write; the one before is still there.
    """
    beside = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, beside)
        beside.replace(path)
    except (OSError, RuntimeError) as error:  # the latter is torch's own, if the disk is full
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"the training could not be kept in {path} ({reason}); make room on its disk, then run"
            " again: it goes on from the last epoch that was kept"
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
