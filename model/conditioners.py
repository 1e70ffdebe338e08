"""The conditioner of a published checkpoint, recognised by its keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.checkpoints import check_keys, fill, first_of
from model.compvis import CONDITIONER, LatentDiffusion
from model.encoder import Conditioner
from model.errors import ModelError

_ONE_TOKEN = ("patch_fc.weight", "patch_fc.bias")
_TWO_TOKENS = (*_ONE_TOKEN, "region_fc.weight", "region_fc.bias")
_ZOOM = ("mag_embedding.weight", "dim_reduce.weight", "dim_reduce.bias", "pad_token")


@dataclass(frozen=True)
class Conditioning:
    """A conditioner, and whether what it gives depends on the embedding.

    kind: what it was in the checkpoint and, if it does not depend, why.
    """

    conditioner: Conditioner
    depends: bool
    kind: str


def convert_conditioner(source: LatentDiffusion, encoder_width: int) -> Conditioning:
    """Return the conditioner of a checkpoint for embeddings of `encoder_width` numbers.

    PatchEmbedder and SSLEmbedder are taken as they are where the encoder fits. Where it does not,
    and for ZoomLDM's, which wants UNI's embeddings of 1024 numbers and a transformer of its own,
    the result is what the model was trained to take for "no condition": the tokens of a zero
    embedding, and for ZoomLDM zero tokens. One zero token then does what its 65 do, since the
    cross-attention has no bias on its keys and values.

    Raises:
        ModelError: it is none of these, or its keys or shapes are not theirs.
    """
    tensors, path = source.conditioner, source.path
    if "patch_fc.weight" in tensors:
        return _embedder(source, tensors, encoder_width)
    if all(key in tensors for key in _ZOOM):
        width = tensors["dim_reduce.weight"].shape[1]
        given = f"ZoomLDM's, for a magnification and UNI embeddings of {width} numbers"
        return Conditioning(
            _constant(encoder_width, torch.zeros(_context(source))),
            depends=False,
            kind=f"{given}, which this program has not: used without a condition (zero tokens)",
        )
    found = first_of(CONDITIONER + key for key in tensors) or "no key of it"
    raise ModelError(
        f"{path} has a conditioner that is not known ({found});"
        " known are PatchEmbedder, SSLEmbedder and ZoomLDM's"
    )


def _embedder(
    source: LatentDiffusion, tensors: Mapping[str, Tensor], encoder_width: int
) -> Conditioning:
    names = _TWO_TOKENS if any(key.startswith("region_fc") for key in tensors) else _ONE_TOKEN
    check_keys(source.path, names, tensors)
    kind = "SSLEmbedder, two tokens" if names is _TWO_TOKENS else "PatchEmbedder, one token"
    if any(tensors[key].ndim != 2 for key in names if key.endswith("weight")):
        raise ModelError(f"{source.path}: {CONDITIONER}patch_fc.weight is not a matrix")
    patch_width = tensors["patch_fc.weight"].shape[1]
    region = tensors.get("region_fc.weight", torch.empty(0, 0)).shape[1]
    empty = Conditioner(patch_width, _context(source), region)
    conditioner = fill(empty, lambda name: name, tensors, source.path)
    if patch_width == encoder_width:
        return Conditioning(conditioner, depends=True, kind=kind)
    return Conditioning(
        _constant(encoder_width, conditioner.patch_fc.bias.detach(), conditioner),
        depends=False,
        kind=f"{kind}, for embeddings of {patch_width} numbers, but this encoder gives"
        f" {encoder_width}: used without a condition (the tokens of a zero embedding)",
    )


def _constant(encoder_width: int, token: Tensor, like: Conditioner | None = None) -> Conditioner:
    """Return a conditioner that gives `token` for every embedding, and the region's if any."""
    region = None if like is None else like.region_fc
    constant = Conditioner(encoder_width, len(token), region.in_features if region else 0)
    with torch.no_grad():
        constant.patch_fc.weight.zero_()
        constant.patch_fc.bias.copy_(token)
    if region is not None:
        constant.region_fc = region
    return constant


def _context(source: LatentDiffusion) -> int:
    """Return the width of the tokens that the U-Net attends to."""
    key = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    if key not in source.unet or source.unet[key].ndim != 2:
        raise ModelError(f"{source.path} lacks the U-Net's matrix {key}")
    return source.unet[key].shape[1]
