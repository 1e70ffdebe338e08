"""PathSegDiff as a library: a frozen diffusion model's features and light segmentation heads.

Importing this package loads no deep-learning framework; `load_segmenter` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model.card import HeadClass, ModelCard, read_card
from model.errors import ModelError
from model.home import find_model
from model.loading import load_apart

if TYPE_CHECKING:
    from model.segmenter import Segmenter

__all__ = ["HeadClass", "ModelCard", "ModelError", "find_model", "load_segmenter", "read_card"]


def load_segmenter(
    folder: Path,
    heads: Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Segmenter:
    """Return the model in a folder, ready on a device, with the named heads (default: all).

    precision: "float32", "bf16", or "auto": bf16 on a CUDA device that has it, else float32.

    Raises:
        ModelError: the folder, a head, the device or the precision cannot be used.
    """
    load_apart("model.segmenter")
    from model.segmenter import load_segmenter as load

    return load(folder, heads, device, precision)
