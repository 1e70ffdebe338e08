"""What is asked of a training, and the model that it rests on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from model.card import CARD_FILE, ModelCard, read_card
from model.device import choose_device
from model.errors import ModelError
from model.feature_choice import FeatureChoice
from model.features import FeatureExtractor
from model.home import DEFAULT_MODEL, find_model, models_home
from model.lessons import HeadTraining
from model.library import check_head_name, check_name
from model.weights import STEM_WEIGHTS, load_backbone, sha256_of


@dataclass(frozen=True)
class HeadRequest:
    """What is to be trained, on top of what.

    model: the name of the model that gets the head; made if it is not there. base: what it is
    made from, a name or folder; None for the model itself if it is there, else the shipped one.
    features: what of the base is used, None for what its card says. validation_share: of the
    images, held out. variants: stains of each image that are trained on, 0 for as many as few
    patches bear. finetune: let the U-Net's decoder learn with the head, which makes a model with
    this head alone. asked_by: the id of a job, kept in the head's card.
    """

    model: str
    head: str
    base: str | None = None
    features: FeatureChoice = field(default_factory=FeatureChoice)
    training: HeadTraining = field(default_factory=HeadTraining)
    validation_share: float = 0.25
    variants: int = 0
    finetune: bool = False
    device: str = "auto"
    cache_gib: float = 20.0
    asked_by: str = ""

    def __post_init__(self) -> None:
        check_head_name(self.head)


@dataclass(frozen=True)
class Base:
    """The model that a head is trained on."""

    folder: Path
    card: ModelCard
    extractor: FeatureExtractor


def base_card(request: HeadRequest) -> ModelCard:
    """Return the card of the model that a head is to be trained on, as far as it is asked for.

    Raises:
        ModelError: there is no such model, or the head cannot be put into one of that name.
    """
    _is_there(request)
    card = read_card(_base_folder(request))
    return replace(card, features=request.features.applied(card.features))


def _base_folder(request: HeadRequest) -> Path:
    use_own = request.base is None and _is_there(request)
    return find_model(request.model if use_own else request.base)


def _is_there(request: HeadRequest) -> bool:
    """Return whether the model that gets the head exists.

    Raises:
        ModelError: it does and cannot get it, or no model can have that name.
    """
    exists = (models_home() / request.model / CARD_FILE).is_file()
    check_name(request.model, replace=exists)
    if exists and request.finetune:
        raise ModelError(
            f"fine-tuning changes the U-Net itself, on which the heads of {request.model} rest;"
            " choose a new name for the fine-tuned model"
        )
    return exists


def base_of(request: HeadRequest) -> Base:
    """Return the model to train on, loaded.

    Raises:
        ModelError: there is none, or a model of the asked-for name rests on another base.
    """
    folder, card = _base_folder(request), base_card(request)
    backbone = load_backbone(folder, card, stem_of(folder)).to(choose_device(request.device))
    card = _with_stem(folder, card)
    exists = _is_there(request)
    if exists and read_card(models_home() / request.model).backbone != card.backbone:
        raise ModelError(
            f"model {request.model} rests on another base or other features than {card.name} with"
            " these options; choose another name, or leave --model out"
        )
    return Base(folder, card, FeatureExtractor(backbone, card.features).eval())


def stem_of(folder: Path) -> Path:
    """Return where a model's stem is: in its folder, or else the shipped one serves."""
    own = folder / STEM_WEIGHTS
    return own if own.is_file() else DEFAULT_MODEL / STEM_WEIGHTS


def _with_stem(folder: Path, card: ModelCard) -> ModelCard:
    """Return a card among whose files is the stem in use, of which the features depend."""
    if card.features.stem is None or STEM_WEIGHTS in card.files:
        return card
    return replace(card, files={**card.files, STEM_WEIGHTS: sha256_of(stem_of(folder))})
