"""The engine with the network that costs next to nothing in the place of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from free_network import BLOCK, CLASSES, COLORS, FreeNetwork

from model import HeadClass
from model.card import HeadCard, ModelCard, read_card
from model.home import DEFAULT_MODEL
from model.lanes import in_lanes
from qupath_bridge.segment import Engine
from qupath_bridge.settings import RunSettings

HEAD = "tissue"
BATCH = 16


class FreeSegmenter:
    """Stands where a model's segmenter stands.

    Its patches are those of the shipped model; `card` says of how many pixels its cells are.
    """

    def __init__(self, card: ModelCard, device: str, block: int = BLOCK) -> None:
        self.card, self.heads = card, [HEAD]
        self.device = torch.device("cuda" if device == "cuda" else "cpu")
        self.batch_size = BATCH
        self.network = FreeNetwork(card.cell_m, block).to(self.device).eval()

    def stream(self, batches: Iterable[Any]) -> Iterator[tuple[Any, dict[str, np.ndarray]]]:
        """Yield the probabilities of batches (key, tiles, origins) with their keys.

        On a CPU a batch for each core, as a model's segmenter does it.
        """
        if self.device.type == "cpu":
            yield from in_lanes(self.probabilities, batches)
            return
        for key, tiles, origins_m in batches:
            yield key, self.probabilities(tiles, origins_m)

    @torch.inference_mode()
    def probabilities(
        self, tiles: np.ndarray, origins_m: Sequence[tuple[int, int]]
    ) -> dict[str, np.ndarray]:
        """Return class probabilities, float32 [B, K, h, w], of tiles, uint8 [B, H, W, 3]."""
        pixels = torch.from_numpy(tiles).to(self.device).permute(0, 3, 1, 2)
        return {HEAD: self.network(pixels).cpu().numpy()}


def free_engine(cell_m: int = 2, block: int = BLOCK, **settings: Any) -> Engine:
    """Return an engine with the free network.

    cell_m: model pixels per side of a score cell. block: of how many pixels it takes the mean.
    """
    classes = tuple(
        HeadClass(name, tuple(round(255 * part) for part in color), name != CLASSES[0])
        for name, color in zip(CLASSES, COLORS, strict=True)
    )
    heads = {HEAD: HeadCard(classes, (1,), 1)}
    card = replace(read_card(DEFAULT_MODEL), cell_m=cell_m, heads=heads)

    def load(folder: Path, heads: Sequence[str] | None, device: str, precision: str) -> Any:
        return FreeSegmenter(card, device, block)

    return Engine(DEFAULT_MODEL, card, [HEAD], RunSettings(**settings), load)
