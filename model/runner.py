"""Batches through a network on a device: in pieces that its memory takes, results as arrays."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from model.device import is_device_lost, is_out_of_memory, lost, too_small
from model.features import FeatureExtractor

log = logging.getLogger(__name__)
HOST_BATCHES = {"cpu": 4, "mps": 16}
Scores = dict[str, np.ndarray]
W = TypeVar("W")


class Network(nn.Module):
    """Patches to class probabilities, every head on the features of one pass."""

    def __init__(self, extractor: FeatureExtractor, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.extractor = extractor
        self.names = list(heads)  # of any spelling, which a ModuleDict would not take
        self.heads = nn.ModuleList(heads.values())

    def forward(self, tiles: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Return for each head float32 [B, K, H/cell, W/cell], adding to 1 over K.

        `tiles` is uint8 [B, H, W, 3], `noise` what `FeatureExtractor.noise` gives for them.
        """
        features = self.extractor.maps(tiles, noise)
        return {
            name: head(features).float().softmax(dim=1).contiguous()
            for name, head in zip(self.names, self.heads, strict=True)
        }


@dataclass(frozen=True)
class Started(Generic[W]):
    """A batch that a device works on: the pieces it was cut into, in order."""

    pieces: list[W]


class Runner(ABC, Generic[W]):
    """A network on a device. Where memory is short, batches are cut into smaller pieces.

    W is the work of one piece: a result, or what will be one. ahead: how many batches may be at
    work while the results of an earlier one are read.
    """

    ahead = 0

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network, self.device = network.to(device), device
        self._most: int | None = None

    @property
    def batch_size(self) -> int:
        """Return how many patches to give at once; found at the first call."""
        if self._most is None:
            self._most = self._guarded(self.fitting)
        return self._most

    def start(self, tiles: np.ndarray, noise: np.ndarray) -> Started[W]:
        """Begin with a batch; `tiles` and `noise` are as `Network` takes them.

        Raises:
            ModelError: the device failed, or not even one patch fits into its memory.
        """
        pieces: list[W] = []
        begin = 0
        while begin < len(tiles):
            end = min(begin + (self._most or len(tiles)), len(tiles))
            piece = self._tried(tiles[begin:end], noise[begin:end])
            if piece is None:
                self.free()
                self._most = smaller(end - begin)
                log.info("out of memory on %s: %d patches at a time", self.device, self._most)
                continue
            pieces.append(piece)
            begin = end
        return Started(pieces)

    def result(self, started: Started[W]) -> Scores:
        """Return the probabilities of a batch, waiting for the device where needed.

        Raises:
            ModelError: the device failed.
        """
        parts = [self._guarded(self.finish, piece) for piece in started.pieces]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @abstractmethod
    def begin(self, tiles: np.ndarray, noise: np.ndarray) -> W:
        """Return the work on one piece, begun."""

    @abstractmethod
    def finish(self, work: W) -> Scores:
        """Return the result of one piece."""

    @abstractmethod
    def fitting(self) -> int:
        """Return how many patches the device takes at once."""

    def free(self) -> None:
        """Give back memory that is kept for later."""

    def _tried(self, tiles: np.ndarray, noise: np.ndarray) -> W | None:
        """Return the work on a piece, begun; None if memory does not suffice for it."""
        try:
            return self._guarded(self.begin, tiles, noise)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(tiles) == 1:
                raise too_small(self.device) from error
        return None

    def _guarded(self, step, *given):  # type: ignore[no-untyped-def]
        """Return what a step gives; a device that fails is told of in a user's words."""
        try:
            return step(*given)
        except RuntimeError as error:
            if is_out_of_memory(error) or not is_device_lost(error):
                raise
            raise lost(self.device, error) from error


class HostRunner(Runner[Scores]):
    """Computes at once where it is called: on the CPU, and on MPS."""

    @torch.inference_mode()
    def begin(self, tiles: np.ndarray, noise: np.ndarray) -> Scores:
        """Return the result of a piece."""
        given = (torch.from_numpy(array).to(self.device) for array in (tiles, noise))
        return {name: found.cpu().numpy() for name, found in self.network(*given).items()}

    def finish(self, work: Scores) -> Scores:
        """Return the result as it is."""
        return work

    def fitting(self) -> int:
        """Return a number of patches that is quick: more would gain nothing."""
        return HOST_BATCHES[self.device.type]


def smaller(count: int) -> int:
    """Return the power of two to try after `count` patches were too many."""
    return max(1, rounded_up(count) // 2)


def rounded_up(count: int) -> int:
    """Return the least power of two that is not below `count`."""
    return 1 << (count - 1).bit_length()
