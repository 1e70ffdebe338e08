"""How unlike a patch is what a head was trained on, by the encoder's embeddings.

A head may keep the embeddings of its training patches beside its weights, as
`heads/<name>.embeddings.safetensors`: directions of the encoder's space, from which no picture can
be made again. Patches far from all of them show what the head has not seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from model.autoencoder import to_signed
from model.errors import ModelError
from model.features import Backbone
from model.weights import read_tensors

MOST_KEPT = 2048
"""Embeddings that a head keeps: below 2 MB at 384 numbers each."""

ROWS = 4096  # candidates compared at once


@torch.inference_mode()
def embed(backbone: Backbone, tiles: np.ndarray) -> np.ndarray:
    """Return the encoder's embeddings, float32 [B, D] of unit length, of tiles.

    `tiles` is uint8 [B, H, W, 3] at the model's resolution.
    """
    device = next(backbone.encoder.parameters()).device
    pixels = to_signed(torch.from_numpy(tiles).to(device))
    embeddings: np.ndarray = backbone.encoder(pixels).float().cpu().numpy()
    return embeddings


def novelty(candidates: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return each candidate's distance to the nearest known embedding, float32 [B], 0..2.

    Both are float [., D] of unit length.

    Raises:
        ModelError: there is no known one, or they are not of one encoder.
    """
    if known.ndim != 2 or not len(known) or known.shape[1:] != candidates.shape[1:]:
        raise ModelError(
            f"embeddings of shape {known.shape} are no measure for ones of {candidates.shape};"
            " train the head again with this model"
        )
    nearest = [
        (candidates[start : start + ROWS] @ known.T).max(axis=1)
        for start in range(0, len(candidates), ROWS)
    ]
    cosines = np.concatenate(nearest) if nearest else np.empty(0)
    return np.sqrt(np.clip(2 - 2 * cosines, 0, 4)).astype(np.float32)


def embeddings_path(folder: Path, head: str) -> Path:
    """Return where a model folder keeps the embeddings of a head's training patches."""
    return folder / "heads" / f"{head}.embeddings.safetensors"


def save_embeddings(folder: Path, head: str, embeddings: np.ndarray) -> None:
    """Write the embeddings of a head's training patches, float [N, D], as float16.

    Of more than `MOST_KEPT`, that many are kept, evenly over their order. The card has to be
    sealed after it.

    Raises:
        ModelError: there are none.
    """
    if not len(embeddings):
        raise ModelError(f"head {head} has no embeddings to keep: it was trained on no patch")
    chosen = np.unique(np.linspace(0, len(embeddings) - 1, MOST_KEPT).round().astype(int))
    kept = torch.from_numpy(embeddings[chosen]).half().contiguous()
    path = embeddings_path(folder, head)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"embeddings": kept}, path)


def load_embeddings(folder: Path, head: str) -> np.ndarray | None:
    """Return the embeddings of a head's training patches, float32 [N, D]; None where none are.

    Raises:
        ModelError: the file is there but is not what it should be.
    """
    path = embeddings_path(folder, head)
    if not path.exists():
        return None
    tensors = read_tensors(path)
    if "embeddings" not in tensors or tensors["embeddings"].ndim != 2:
        raise ModelError(f"{path} holds no embeddings; train the head again")
    known: np.ndarray = normalize(tensors["embeddings"], dim=-1).numpy()  # after rounding
    return known
