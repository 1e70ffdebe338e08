"""Image patches to class probabilities, every head from one pass of the backbone."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from model.card import ModelCard, read_card
from model.cuda import CudaRunner
from model.device import choose_device, choose_dtype
from model.errors import ModelError
from model.features import FeatureExtractor
from model.fused import FusedResnet, compiles_on
from model.head import Head
from model.lanes import in_lanes
from model.lean import LeanResnet, make_head_lean, make_lean
from model.novelty import embed
from model.runner import HostRunner, Network, Runner, Scores
from model.weights import load_backbone, load_head

Key = TypeVar("Key", bound=Hashable)
Origins = Sequence[tuple[int, int]]


class Segmenter:
    """A model on a device: uint8 patches in, class probabilities per head out.

    The extractor and the heads are changed for inference and belong to the segmenter from then on.
    On a GPU, batches filled up to the same size give the same bits on the same card.
    """

    def __init__(
        self,
        card: ModelCard,
        extractor: FeatureExtractor,
        heads: Mapping[str, Head],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.card, self.device, self.dtype = card, device, dtype
        fused = device.type == "cuda" and dtype == torch.bfloat16 and compiles_on(device)
        self._extractor = make_lean(extractor, FusedResnet if fused else LeanResnet, dtype)
        self._heads = {name: make_head_lean(head, dtype) for name, head in heads.items()}
        self._runner = self._runner_on(device)

    def _runner_on(self, device: torch.device) -> Runner[Any]:
        network = Network(self._extractor, self._heads)
        if device.type != "cuda":
            return HostRunner(network, device)
        side = self.card.tile_m
        noise = self._extractor.noise([(0, 0)], side, side)
        return CudaRunner(network, device, (side, side, 3), noise.shape[1:])

    @property
    def heads(self) -> list[str]:
        """Return the names of the heads that are loaded."""
        return list(self._heads)

    @property
    def batch_size(self) -> int:
        """Return how many patches to give at once: on a GPU what its free memory takes.

        Larger batches are welcome and are cut. Out of memory makes it smaller.

        Raises:
            ModelError: the device failed.
        """
        return self._runner.batch_size

    def probabilities(self, tiles: np.ndarray, origins_m: Origins) -> dict[str, np.ndarray]:
        """Return for each head float32 [B, K, H/cell, W/cell], adding to 1 over K.

        `tiles` is uint8 [B, H, W, 3] at the card's mpp; `origins_m` are the tiles' corners
        (x, y) on the slide in model pixels.

        Raises:
            ModelError: the device failed, or not even one tile fits into its memory.
        """
        return self._runner.result(self._started(tiles, origins_m))

    def stream(
        self, batches: Iterable[tuple[Key, np.ndarray, Origins]]
    ) -> Iterator[tuple[Key, dict[str, np.ndarray]]]:
        """Yield the probabilities of each batch, in order, with the key that came with it.

        The batches are (key, tiles, origins_m), the latter as `probabilities` takes them, whose
        numbers these are, but for the last bits. A GPU works on the next batch while one that is
        done is with the caller; a CPU on one batch per core, and their number changes no bit.

        Raises:
            ModelError: the device failed, or not even one tile fits into its memory.
        """
        if self.device.type == "cpu":
            yield from in_lanes(self.probabilities, batches)
            return
        at_work: deque[tuple[Key, Any]] = deque()
        for key, tiles, origins_m in batches:
            at_work.append((key, self._started(tiles, origins_m)))
            if len(at_work) > self._runner.ahead:
                yield self._next(at_work)
        while at_work:
            yield self._next(at_work)

    def embeddings(self, tiles: np.ndarray) -> np.ndarray:
        """Return the encoder's embeddings of tiles, float32 [B, D] of unit length.

        `tiles` is uint8 [B, H, W, 3] at the card's mpp.
        """
        return embed(self._extractor.backbone, tiles)

    def _started(self, tiles: np.ndarray, origins_m: Origins) -> Any:
        noise = self._extractor.noise(origins_m, *tiles.shape[1:3])
        return self._runner.start(tiles, noise)

    def _next(self, at_work: deque[tuple[Key, Any]]) -> tuple[Key, Scores]:
        key, started = at_work.popleft()
        return key, self._runner.result(started)


def load_segmenter(
    folder: Path,
    heads: Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Segmenter:
    """Return the model in a folder, on a device, with the named heads (default: all).

    precision: one of `PRECISIONS`.

    Raises:
        ModelError: the folder, a head, the device or the precision cannot be used.
    """
    card = read_card(folder)
    names = card.choose_heads(heads)
    chosen = choose_device(device)
    dtype = choose_dtype(precision, chosen)
    backbone = load_backbone(folder, card)
    extractor = FeatureExtractor(backbone, card.features).eval()
    strange = [n for n in names if card.heads[n].feature_channels != extractor.channels]
    if strange:
        raise ModelError(
            f"head {strange[0]} of model {card.name} in {folder} does not take the features that"
            " its card names; get the model anew, or train the head again"
        )
    loaded = {name: load_head(folder, card, name) for name in names}
    return Segmenter(card, extractor, loaded, chosen, dtype)
