"""Training of a head on the frozen model's features."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.cache import Tell, silent
from model.errors import DivergedError
from model.head import Head
from model.lessons import Along, Epoch, Examples, HeadTraining, Lessons, Trained
from model.loss import class_weights, segmentation_loss, soft_targets
from model.training_state import read_state, write_state


def train_head(
    lessons: Lessons,
    settings: HeadTraining,
    checkpoint: Path | None = None,
    tell: Tell = silent,
    along: Along | None = None,
) -> Trained:
    """Return the head of the epoch that is best on what is held out; the last without that.

    With a `checkpoint`, training goes on where that file stops, if it is of the same training,
    and every epoch is kept in it. A network that learns `along` ends in its state of that epoch.

    Raises:
        DivergedError: the loss is not a number before any epoch was done.
    """
    run = _Run(lessons, settings, along)
    run.resume(checkpoint)
    epochs = math.ceil(settings.steps / settings.epoch_steps)
    for epoch in range(len(run.curve) + 1, epochs + 1):
        trouble = run.epoch(epoch, tell)
        if trouble:
            if not run.curve:
                raise DivergedError(f"{trouble}; lower the learning rate, or look at the labels")
            return run.trained(trouble)
        run.keep(checkpoint)
    return run.trained()


class _Run:
    """A training under way: the head, its best state so far, and the optimiser."""

    def __init__(self, lessons: Lessons, settings: HeadTraining, along: Along | None) -> None:
        torch.manual_seed(settings.seed)
        self.lessons, self.settings, self.along = lessons, settings, along
        head = (
            along.head
            if along
            else Head(lessons.training.channels, lessons.classes, settings.width)
        )
        head.requires_grad_(True)
        self.head = head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.both = nn.ModuleList([self.head, *([along.network] if along else [])])
        self.weights = class_weights(lessons.training.planes, lessons.classes)
        groups: list[dict[str, Any]] = [
            {"params": list(self.head.parameters()), "lr": settings.learning_rate}
        ]
        if along:
            learning = [p for p in along.network.parameters() if p.requires_grad]
            groups.append({"params": learning, "lr": along.learning_rate})
        self.optimiser = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        self.rate = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser,
            [group["lr"] for group in groups],
            total_steps=settings.steps,
            pct_start=max(0.1, min(0.4, 1.5 / settings.steps)),  # torch divides by it x steps - 1
        )
        self.curve: list[Epoch] = []
        self.best = copy.deepcopy(self.both.state_dict())

    def epoch(self, number: int, tell: Tell) -> str:
        """Train one epoch and look at what is held out; return what went wrong, if anything."""
        self.head.train()
        rng = np.random.default_rng([self.settings.seed, number])
        first = (number - 1) * self.settings.epoch_steps
        steps = min(self.settings.epoch_steps, self.settings.steps - first)
        losses = []
        for step, indices in zip(range(first, first + steps), self._picks(rng), strict=False):
            losses.append(self._step(indices, rng))
            if not math.isfinite(losses[-1]):
                return f"the loss is not a number at step {step + 1}"
            tell("train", step + 1, self.settings.steps)
        held_out = self._look()
        if not self._sound(held_out[0]):
            return f"the weights or the held-out loss are no numbers after step {first + steps}"
        self.curve.append(Epoch(number, float(np.mean(losses)), *held_out))
        if self.lessons.validation is None or self.best_epoch == number:
            self.best = copy.deepcopy(self.both.state_dict())
        return ""

    @property
    def best_epoch(self) -> int:
        """Return the epoch with the best held-out Dice, the first of equals; else the last."""
        if self.lessons.validation is None:
            return len(self.curve)
        return max(self.curve, key=lambda row: np.nan_to_num(row.mean_dice, nan=-1.0)).epoch

    def trained(self, trouble: str = "") -> Trained:
        """Return the best head so far."""
        self.both.load_state_dict(self.best)
        head = self.head.to(memory_format=torch.contiguous_format)
        head.eval().requires_grad_(False)
        return Trained(head, self.curve, self.best_epoch, trouble)

    def keep(self, checkpoint: Path | None) -> None:
        """Write all that is needed to go on, whole or not at all."""
        if checkpoint is None:
            return
        state = {
            "of": self._identity(),
            "networks": self.both.state_dict(),
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "rate": self.rate.state_dict(),
            "curve": [asdict(row) for row in self.curve],
        }
        write_state(checkpoint, state)

    def resume(self, checkpoint: Path | None) -> None:
        """Take up what a checkpoint of this same training holds; any other is left alone."""
        state = read_state(checkpoint)
        if state.get("of") != self._identity():
            return
        self.both.load_state_dict(state["networks"])
        self.best = state["best"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.rate.load_state_dict(state["rate"])
        self.curve = [Epoch(**row) for row in state["curve"]]

    def _identity(self) -> str:
        sides = (self.lessons.training, self.lessons.validation)
        names = [side.name for side in sides if side is not None]
        learning = [len(group["params"]) for group in self.optimiser.param_groups]
        return repr((self.settings, self.lessons.classes, sides[0].channels, names, learning))

    def _step(self, indices: list[int], rng: np.random.Generator) -> float:
        loss = self._loss(self.lessons.training, indices, rng)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norms = [
            nn.utils.clip_grad_norm_(group["params"], 1.0) for group in self.optimiser.param_groups
        ]
        if not all(map(torch.isfinite, norms)):
            return math.nan  # a step by it would spoil the weights
        self.optimiser.step()
        self.rate.step()
        return loss.item()

    def _loss(
        self, source: Examples, indices: list[int], rng: np.random.Generator | None = None
    ) -> Tensor:
        logits, shares, weight = self._answers(source, indices, rng)
        return segmentation_loss(logits, shares, weight, self.weights)

    def _answers(
        self, source: Examples, indices: list[int], rng: np.random.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.head.training):
            maps, codes = source.batch(indices, rng)
            logits = self.head(maps).float()
        cell_m = codes.shape[-1] // logits.shape[-1]
        return logits, *soft_targets(codes, self.lessons.classes, cell_m)

    @torch.no_grad()
    def _look(self) -> tuple[float, float]:
        """Return the loss and the mean Dice over the classes of what is held out."""
        held_out, classes, batch = (
            self.lessons.validation,
            self.lessons.classes,
            self.settings.batch,
        )
        if held_out is None:
            return math.nan, math.nan
        self.head.eval()
        losses, both, either = [], torch.zeros(classes), torch.zeros(classes)
        for start in range(0, len(held_out), batch):
            indices = list(range(start, min(start + batch, len(held_out))))
            logits, shares, weight = self._answers(held_out, indices)
            losses.append(segmentation_loss(logits, shares, weight, self.weights).item())
            found = nn.functional.one_hot(logits.argmax(1), classes).permute(0, 3, 1, 2)
            truth, found = shares * weight[:, None], found * weight[:, None]
            both += torch.minimum(truth, found).sum((0, 2, 3))
            either += (truth + found).sum((0, 2, 3))
        dice = (2 * both / either)[either > 0]
        return float(np.mean(losses)), float(dice.mean())

    def _sound(self, held_out_loss: float) -> bool:
        known = self.lessons.validation is None or math.isfinite(held_out_loss)
        return known and all(bool(w.isfinite().all()) for w in self.both.parameters())

    def _picks(self, rng: np.random.Generator) -> Iterator[list[int]]:
        """Yield batches for ever, every patch once before any comes again."""
        batch, left = self.settings.batch, np.empty(0, np.int64)
        while True:
            while len(left) < batch:
                left = np.concatenate([left, rng.permutation(len(self.lessons.training))])
            yield left[:batch].tolist()
            left = left[batch:]
