"""What a user asks of a model's features, where it differs from what the card says."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from model.card import FeatureSpec
from model.errors import ModelError
from model.stem import StemPlan


@dataclass(frozen=True)
class FeatureChoice:
    """Each None leaves the model's own; see `FeatureSpec`. stem: whether there is one."""

    timesteps: tuple[int, ...] | None = None
    blocks: tuple[int, ...] | None = None
    joined: bool | None = None
    conditioning: bool | None = None
    stem: bool | None = None

    @classmethod
    def parsed(cls, timesteps: str | None, blocks: str | None, **switches: Any) -> FeatureChoice:
        """Return the choice that options of a command say, lists as "50,150".

        Raises:
            ModelError: a list is not one of whole numbers.
        """
        lists = [None if text is None else numbers(text) for text in (timesteps, blocks)]
        return cls(*lists, **switches)

    def applied(self, features: FeatureSpec) -> FeatureSpec:
        """Return a model's features with what was asked for in place."""
        given = {
            "timesteps": self.timesteps,
            "up_blocks": self.blocks,
            "joined": self.joined,
            "conditioned": self.conditioning,
        }
        changed = replace(features, **{k: v for k, v in given.items() if v is not None})
        if self.stem is None or self.stem == (features.stem is not None):
            return changed
        return replace(changed, stem=asdict(StemPlan()) if self.stem else None)


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers in "1,2,3".

    Raises:
        ModelError: they are not whole numbers, or one stands there twice.
    """
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ModelError(f"{text!r} is not a list of whole numbers, as 50,150") from None
    if len(set(found)) != len(found) or min(found) < 0:
        raise ModelError(f"{text!r} has a number twice or below 0")
    return found
