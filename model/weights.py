"""Model folders: safetensors in the layouts of diffusers and transformers, never a pickle.

card.json                                   what the model is; sha256 of every file below
autoencoder/config.json, diffusion_pytorch_model.safetensors
unet/config.json, diffusion_pytorch_model.safetensors
encoder/config.json, model.safetensors
conditioner.safetensors
stem.safetensors                            where the card has a pixel stem
heads/<name>.safetensors
heads/<name>.embeddings.safetensors         of what the head was trained on; see `novelty`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from model.autoencoder import AUTOENCODERS, Autoencoder
from model.card import ModelCard, write_card
from model.encoder import Conditioner, Encoder
from model.errors import ModelError
from model.features import Backbone, check_features
from model.head import Head
from model.schedule import NoiseSchedule
from model.stem import stem_of

DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
TRANSFORMERS_WEIGHTS = "model.safetensors"
STEM_WEIGHTS = "stem.safetensors"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}

M = TypeVar("M", bound=nn.Module)


def load_backbone(folder: Path, card: ModelCard, stem_weights: Path | None = None) -> Backbone:
    """Return the frozen backbone of a model folder, float32 on the CPU, in eval mode.

    `stem_weights` is where the pixel stem's are, if not in the folder.

    Raises:
        ModelError: a file is missing, changed, not safetensors, or does not fit the network; or
            the card asks for features that the network has not.
    """
    verify_files(folder, card)
    autoencoder = _filled(_autoencoder(folder), folder / "autoencoder" / DIFFUSERS_WEIGHTS)
    unet_config = _config(folder / "unet" / "config.json")
    unet = _filled(
        UNet2DConditionModel.from_config(unet_config), folder / "unet" / DIFFUSERS_WEIGHTS
    )
    vit = ViTModel(
        ViTConfig(**_config(folder / "encoder" / "config.json")), add_pooling_layer=False
    )
    encoder = Encoder(_filled(vit, folder / "encoder" / TRANSFORMERS_WEIGHTS))
    conditioner = _conditioner(folder / "conditioner.safetensors")
    schedule = _schedule(folder, card)
    stem = stem_of(card.features.stem)
    stem = stem if stem is None else _filled(stem, stem_weights or folder / STEM_WEIGHTS)
    backbone = Backbone(Autoencoder(autoencoder), encoder, conditioner, unet, schedule, stem)
    check_features(card.features, backbone)
    return backbone.eval().requires_grad_(False)


def load_head(folder: Path, card: ModelCard, name: str) -> Head:
    """Return one head of a model folder, float32 on the CPU, in eval mode.

    Raises:
        ModelError: it was trained on another base, or its file cannot be used.
    """
    head = card.heads[name]
    if head.backbone and head.backbone != card.backbone:
        raise ModelError(
            f"head {name} was trained on another base than model {card.name} in {folder}: it knows"
            " other features; train it again for this one: qupath-pathsegdiff train --help"
        )
    network = Head(head.feature_channels, len(head.classes), head.width)
    return _filled(network, folder / "heads" / f"{name}.safetensors").eval().requires_grad_(False)


def save_backbone(folder: Path, backbone: Backbone, dtype: torch.dtype = torch.float16) -> None:
    """Write a backbone into a model folder, weights as `dtype`."""
    for name, network in (("autoencoder", backbone.autoencoder.network), ("unet", backbone.unet)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        network.save_config(folder / name)
        _save(network, folder / name / DIFFUSERS_WEIGHTS, dtype)
    (folder / "encoder").mkdir(exist_ok=True)
    backbone.encoder.network.config.save_pretrained(folder / "encoder")
    _save(backbone.encoder.network, folder / "encoder" / TRANSFORMERS_WEIGHTS, dtype)
    _save(backbone.conditioner, folder / "conditioner.safetensors", dtype)
    if backbone.stem is not None:
        _save(backbone.stem, folder / STEM_WEIGHTS, dtype)


def save_unet(folder: Path, unet: UNet2DConditionModel) -> None:
    """Write a U-Net's weights over those in a model folder, in the precision they had."""
    path = folder / "unet" / DIFFUSERS_WEIGHTS
    with safe_open(path, framework="pt") as former:
        dtype = former.get_tensor(next(iter(former.keys()))).dtype
    path.unlink()  # it may be a link to another model's
    _save(unet, path, dtype)


def save_head(folder: Path, name: str, head: Head) -> None:
    """Write a head into a model folder, weights as float16."""
    (folder / "heads").mkdir(parents=True, exist_ok=True)
    _save(head, folder / "heads" / f"{name}.safetensors")


def seal(folder: Path, card: ModelCard) -> ModelCard:
    """Write the card with the hashes of all files of the folder; return it."""
    kept = [p for p in sorted(folder.rglob("*")) if p.suffix in (".safetensors", ".json")]
    files = {p.relative_to(folder).as_posix(): sha256_of(p) for p in kept if p.name != "card.json"}
    sealed = replace(card, files=files)
    write_card(folder, sealed)
    return sealed


def verify_files(folder: Path, card: ModelCard) -> None:
    """Check that every file of the card is there and unchanged.

    Raises:
        ModelError: one is not; the message names it.
    """
    for relative, expected in card.files.items():
        path = folder / relative
        if not path.is_file():
            pickles = [p.name for p in path.parent.glob("*") if p.suffix in PICKLES]
            hint = f" ({pickles[0]} is a pickle and is never loaded)" if pickles else ""
            raise ModelError(
                f"model folder {folder} is incomplete: {relative} is missing{hint}; get it anew"
            )
        if sha256_of(path) != expected:
            raise ModelError(f"{path} is not the file its card describes; get the model anew")


def sha256_of(path: Path) -> str:
    """Return a file's sha256 as hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, floating ones as float32.

    Raises:
        ModelError: the file is missing or is not safetensors (a pickle, say).
    """
    if path.suffix in PICKLES:
        raise ModelError(f"{path} is a pickle, which could run code; convert it to safetensors")
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; get the model anew") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a safetensors file ({error}); get it anew") from error
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def _filled(network: M, path: Path) -> M:
    try:
        network.load_state_dict(read_tensors(path), strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise ModelError(f"{path} does not fit its network: {first[0].strip()}") from error
    return network


def _autoencoder(folder: Path) -> nn.Module:
    path = folder / "autoencoder" / "config.json"
    config = _config(path)
    kind = config.get("_class_name")
    if kind not in AUTOENCODERS:
        raise ModelError(f"{path} names the autoencoder {kind!r}; known: {', '.join(AUTOENCODERS)}")
    return AUTOENCODERS[kind].from_config(config)


def _conditioner(path: Path) -> Conditioner:
    tensors = read_tensors(path)
    try:
        context_width, patch_width = tensors["patch_fc.weight"].shape
    except (KeyError, ValueError):
        raise ModelError(f"{path} has no matrix patch_fc.weight; get the model anew") from None
    region = tensors.get("region_fc.weight", torch.empty(0, 0))
    return _filled(Conditioner(patch_width, context_width, region.shape[1]), path)


def _schedule(folder: Path, card: ModelCard) -> NoiseSchedule:
    try:
        schedule = NoiseSchedule(**card.schedule)
        schedule.mix(0)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the card of {folder} has no schedule that is known ({error})") from None
    return schedule


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); get the model anew") from error
    if not isinstance(config, Mapping):
        raise ModelError(f"{path} is not a configuration; get the model anew")
    return dict(config)


def _save(network: nn.Module, path: Path, dtype: torch.dtype = torch.float16) -> None:
    state = network.state_dict()
    save_file(
        {k: (v.to(dtype) if v.is_floating_point() else v).contiguous() for k, v in state.items()},
        path,
    )
