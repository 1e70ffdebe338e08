"""What a head learns from, how, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from model.errors import ModelError
from model.head import Head

MOST_PATCHES = 256
"""Per step: more would fill the memory before they taught anything."""
SEEDS = 2**63
"""torch takes no seed from here on."""


@dataclass(frozen=True)
class HeadTraining:
    """Settings of a head's training; all are our choice.

    epoch_steps: after so many steps the held-out patches are looked at.

    Raises:
        ModelError: with one of them nothing could be trained.
    """

    steps: int = 400
    batch: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    width: int = 48
    epoch_steps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.epoch_steps, self.width // 2) < 1:
            raise ModelError(
                f"a training needs at least 1 step and 1 patch per step; got {self.steps} steps,"
                f" {self.batch} patches"
            )
        if self.batch > MOST_PATCHES:
            raise ModelError(f"at most {MOST_PATCHES} patches per step are used; got {self.batch}")
        if not 0 <= self.seed < SEEDS:
            raise ModelError(f"a seed is a whole number from 0 to 2^63 - 1; got {self.seed}")
        if not self.learning_rate > 0:
            raise ModelError(f"the learning rate must be above 0; got {self.learning_rate:g}")


@dataclass(frozen=True)
class Epoch:
    """One row of the learning curve. dice: mean over the classes held out; NaN where none is."""

    epoch: int
    train_loss: float
    validation_loss: float
    mean_dice: float


@dataclass
class Trained:
    """A trained head and how it learned.

    trouble: what stopped it early, if anything did. note: what else there is to say, if anything.
    """

    head: Head
    curve: list[Epoch] = field(default_factory=list)
    best: int = 0
    trouble: str = ""
    note: str = ""

    @property
    def best_dice(self) -> float:
        """Return the mean Dice of the best epoch; NaN where nothing is held out."""
        return self.curve[self.best - 1].mean_dice


class Examples(Protocol):
    """Patches to draw batches from: features computed before, or on the spot."""

    @property
    def name(self) -> str:
        """Return what tells these examples from others."""
        ...

    @property
    def channels(self) -> tuple[int, ...]:
        """Return how many channels each map of features has."""
        ...

    @property
    def planes(self) -> list[np.ndarray]:
        """Return the codes of all patches, uint8 [N, S, S] each."""
        ...

    def __len__(self) -> int: ...

    def batch(
        self, indices: Sequence[int], rng: np.random.Generator | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Return float [B, C_i, h_i, w_i] per map, codes uint8 [B, S, S]; with rng, turned."""
        ...


@dataclass(frozen=True)
class Lessons:
    """What is learned from, and what is held out; codes are those of `classes` classes."""

    training: Examples
    validation: Examples | None
    classes: int


@dataclass(frozen=True)
class Along:
    """A network that learns along with the head, which starts from `head`."""

    network: nn.Module
    head: Head
    learning_rate: float
