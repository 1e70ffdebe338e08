"""Image patches to class probabilities, every head from one pass of the backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from model.card import ModelCard, read_card
from model.errors import ModelError
from model.features import FeatureExtractor
from model.head import Head
from model.novelty import embed
from model.weights import load_backbone, load_head


class Segmenter:
    """A model on a device: uint8 patches in, class probabilities per head out."""

    def __init__(
        self,
        card: ModelCard,
        extractor: FeatureExtractor,
        heads: Mapping[str, Head],
        device: torch.device,
    ) -> None:
        self.card = card
        self.device = device
        self._extractor = extractor.to(device)
        self._heads = {name: head.to(device) for name, head in heads.items()}

    @property
    def heads(self) -> list[str]:
        """Return the names of the heads that are loaded."""
        return list(self._heads)

    @torch.inference_mode()
    def probabilities(
        self, tiles: np.ndarray, origins_m: Sequence[tuple[int, int]]
    ) -> dict[str, np.ndarray]:
        """Return for each head float32 [B, K, H/cell, W/cell], adding to 1 over K.

        `tiles` is uint8 [B, H, W, 3] at the card's mpp; `origins_m` are the tiles' corners
        (x, y) on the slide in model pixels.
        """
        batch = torch.from_numpy(tiles).to(self.device)
        features = self._extractor(batch, origins_m)
        return {
            name: head(features).softmax(dim=1).float().cpu().numpy()
            for name, head in self._heads.items()
        }

    def embeddings(self, tiles: np.ndarray) -> np.ndarray:
        """Return the encoder's embeddings of tiles, float32 [B, D] of unit length.

        `tiles` is uint8 [B, H, W, 3] at the card's mpp.
        """
        return embed(self._extractor.backbone, tiles)


def load_segmenter(
    folder: Path, heads: Sequence[str] | None = None, device: str = "auto"
) -> Segmenter:
    """Return the model in a folder, on a device, with the named heads (default: all).

    Raises:
        ModelError: the folder, a head or the device cannot be used.
    """
    card = read_card(folder)
    names = card.choose_heads(heads)
    chosen = choose_device(device)
    backbone = load_backbone(folder, card)
    extractor = FeatureExtractor(backbone, card.features)
    strange = [n for n in names if card.heads[n].feature_channels != extractor.channels]
    if strange:
        raise ModelError(
            f"head {strange[0]} of model {card.name} in {folder} does not take the features that"
            " its card names; get the model anew, or train the head again"
        )
    return Segmenter(card, extractor, {n: load_head(folder, card, n) for n in names}, chosen)


def choose_device(name: str) -> torch.device:
    """Return the device of this name; "auto" is CUDA, else MPS, else the CPU.

    Raises:
        ModelError: the name is unknown or this machine has no such device.
    """
    if name == "auto":
        return torch.device(_best_device())
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"device {name} is not there: torch sees {torch.cuda.device_count()} CUDA devices;"
            " use --device cpu, or install a CUDA build of torch"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError("device mps is not there on this machine; use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ModelError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps")
    return device


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
