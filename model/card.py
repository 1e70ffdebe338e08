"""The model card: everything about a model but its numbers, as `card.json` in its folder."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from model.errors import ModelError

CARD_FORMAT = 2
CARD_FILE = "card.json"


@dataclass(frozen=True)
class HeadClass:
    """One class of a head; color is (r, g, b), 0..255.

    A class with `detections` False (background) is measured but makes no objects.
    """

    name: str
    color: tuple[int, int, int]
    detections: bool = True


@dataclass(frozen=True)
class FeatureSpec:
    """What of the frozen model is a feature; the same for every head of a model.

    timesteps: each 0..T-1, one pass of the U-Net per timestep. joined: features of several
    timesteps side by side as channels; else their mean. up_blocks: the tapped decoder blocks of
    the U-Net; none leaves the U-Net out. conditioned: whether the encoder's embedding goes into
    the cross-attention; else zeros. stem: settings of the pixel stem (ours, not the paper's),
    None for none. noise_seed: seed of the noise field.
    """

    timesteps: tuple[int, ...] = (50,)
    up_blocks: tuple[int, ...] = (1, 2, 3)
    joined: bool = False
    conditioned: bool = True
    stem: Mapping[str, Any] | None = None
    noise_seed: int = 2504


@dataclass(frozen=True)
class HeadCard:
    """One head: its classes in channel order and the shape of its network.

    backbone: the `ModelCard.backbone` that the head was trained on. training: data, pixels per
    class, split, settings, date. scores: what was measured on what was held out. on_request: it
    runs only if asked for by name.
    """

    classes: tuple[HeadClass, ...]
    feature_channels: tuple[int, ...]
    width: int
    description: str = ""
    scores: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    on_request: bool = False


@dataclass(frozen=True)
class ModelCard:
    """What a model is, needs and gives.

    mpp: um per model pixel. tile_m, margin_m: side of a patch and of the rim whose scores are
    not used, model pixels. cell_m: model pixels per side of a score cell. files: path relative
    to the folder -> sha256. sources: the same of the files that a model was imported from.
    """

    name: str
    version: str
    description: str
    intended_use: str
    licence: str
    mpp: float
    tile_m: int
    margin_m: int
    cell_m: int
    features: FeatureSpec
    schedule: Mapping[str, Any]
    heads: Mapping[str, HeadCard]
    files: Mapping[str, str]
    training: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    format: int = CARD_FORMAT

    @property
    def backbone(self) -> str:
        """Return a hex digest of all that features depend on: weights, schedule, choice."""
        files = {k: v for k, v in self.files.items() if not k.startswith("heads/")}
        parts = [files, asdict(self.features), dict(self.schedule), self.mpp]
        text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Return a hex digest of the card and, through its hashes, of every weight."""
        text = json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def choose_heads(self, names: Sequence[str] | None) -> list[str]:
        """Return the named heads in the card's order; where none is named, the usual ones.

        Those are all that do not wait for a request; all heads if every one does.

        Raises:
            ModelError: the model has no such head.
        """
        if not self.heads:
            raise ModelError(
                f"model {self.name} has no heads yet; train one: qupath-pathsegdiff train --help"
            )
        unknown = [name for name in names or () if name not in self.heads]
        if unknown:
            raise ModelError(
                f"model {self.name} has no head {', '.join(map(repr, unknown))};"
                f" it has: {', '.join(self.heads)}"
            )
        usual = [name for name, head in self.heads.items() if not head.on_request]
        wanted = names or usual or list(self.heads)
        return [name for name in self.heads if name in wanted]


def read_card(folder: Path) -> ModelCard:
    """Return the card of the model in a folder.

    Raises:
        ModelError: no card, broken JSON, another format, or fields missing.
    """
    path = folder / CARD_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        found = raw["format"]
    except FileNotFoundError:
        raise ModelError(f"model folder {folder} has no {CARD_FILE}; get the model anew") from None
    except (OSError, UnicodeDecodeError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{path} cannot be read ({error}); get the model anew") from error
    if found != CARD_FORMAT:
        raise ModelError(
            f"{path} is of card format {found}, this program reads {CARD_FORMAT};"
            " update the program, or get a model made for it"
        )
    try:
        return _card_of(raw)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is incomplete or malformed ({error}); get it anew") from error


def write_card(folder: Path, card: ModelCard) -> None:
    """Write a model's card into its folder, whole or not at all; what is no number is null."""
    path = folder / CARD_FILE
    beside = path.with_suffix(".json.part")
    text = json.dumps(_plain(asdict(card)), indent=1, ensure_ascii=False, allow_nan=False)
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(path)


def _plain(value: Any) -> Any:
    """Return what JSON can hold: it has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _card_of(raw: dict[str, Any]) -> ModelCard:
    fields = dict(raw)
    fields["features"] = _features_of(fields["features"])
    fields["heads"] = {name: _head_of(head) for name, head in fields["heads"].items()}
    card = ModelCard(**fields)
    if not (card.mpp > 0 and 0 < card.cell_m <= card.tile_m and 2 * card.margin_m < card.tile_m):
        raise ValueError("mpp, tile_m, margin_m or cell_m out of range")
    return card


def _features_of(raw: dict[str, Any]) -> FeatureSpec:
    timesteps, up_blocks = (tuple(map(int, raw[key])) for key in ("timesteps", "up_blocks"))
    return FeatureSpec(**(raw | {"timesteps": timesteps, "up_blocks": up_blocks}))


def _head_of(raw: dict[str, Any]) -> HeadCard:
    classes = tuple(
        HeadClass(c["name"], tuple(c["color"]), bool(c["detections"])) for c in raw["classes"]
    )
    return HeadCard(
        classes=classes,
        feature_channels=tuple(raw["feature_channels"]),
        width=raw["width"],
        description=raw.get("description", ""),
        scores=raw.get("scores", {}),
        backbone=raw.get("backbone", ""),
        training=raw.get("training", {}),
        on_request=bool(raw.get("on_request", False)),
    )
