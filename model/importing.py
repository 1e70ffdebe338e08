"""Published weights to a model folder: a latent diffusion model and the encoder it was fed by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from model.autoencoder import Autoencoder
from model.card import FeatureSpec, ModelCard
from model.compvis import LatentDiffusion, read_latent_diffusion
from model.compvis_unet import convert_unet
from model.compvis_vq import convert_autoencoder
from model.conditioners import Conditioning, convert_conditioner
from model.dino import convert_encoder
from model.encoder import Encoder
from model.errors import ModelError
from model.features import Backbone
from model.library import check_name, new_model
from model.weights import save_backbone, seal, sha256_of

TILE_M = 256  # the patch that the published models were trained on
MPP = 0.5  # 20x
MARGIN_M = 32  # ours: what zero padding disturbs most
TAPPED = 3  # ours: the last blocks of the decoder, 1 to 3 of the published models' four
OURS = (
    "timestep, tapped blocks, rim (margin_m) and head are choices of this program, not the paper's"
)


@dataclass(frozen=True)
class Sources:
    """The files to import from.

    ldm: CompVis checkpoint, .ckpt or .safetensors. encoder: DINO checkpoint. config: the YAML
    file of the latent diffusion model. licences: what the owners of the weights allow. pixels:
    the encoder's normalisation, "half" or "imagenet".
    """

    ldm: Path
    encoder: Path
    config: Path | None = None
    licences: Sequence[str] = ()
    pixels: str = "half"

    def digests(self) -> dict[str, str]:
        """Return the sha256 of every file, under its part and name."""
        parts = {"ldm": self.ldm, "config": self.config, "encoder": self.encoder}
        return {f"{part}/{path.name}": sha256_of(path) for part, path in parts.items() if path}


def import_model(name: str, sources: Sources, replace: bool = False) -> ModelCard:
    """Turn published weights into the model `name` of `models_home()`; return its card.

    Weights keep their precision. Nothing of a file is run. The model has no heads yet.

    Raises:
        ModelError: a file cannot be used, the name is taken, or the system refused to write.
    """
    check_name(name, replace)
    source = read_latent_diffusion(sources.ldm, sources.config)
    vit = convert_encoder(sources.encoder, TILE_M, sources.pixels)
    conditioning = convert_conditioner(source, vit.config.hidden_size)
    backbone = Backbone(
        Autoencoder(convert_autoencoder(source)),
        Encoder(vit),
        conditioning.conditioner,
        convert_unet(source),
        source.schedule,
    )
    _check_fit(source, backbone)
    card = _card(name, sources, source, conditioning, backbone)
    with new_model(name, replace) as folder:
        save_backbone(folder, backbone, _precision(source))
        return seal(folder, card)


def _check_fit(source: LatentDiffusion, backbone: Backbone) -> None:
    takes, gives = backbone.unet.config.in_channels, backbone.autoencoder.channels
    if takes != gives:
        raise ModelError(
            f"{source.path}: its U-Net takes {takes} channels, its autoencoder gives {gives}"
        )


def _precision(source: LatentDiffusion) -> torch.dtype:
    halves = all(tensor.dtype is torch.float16 for tensor in source.unet.values())
    return torch.float16 if halves else torch.float32


def _card(
    name: str,
    sources: Sources,
    source: LatentDiffusion,
    conditioning: Conditioning,
    backbone: Backbone,
) -> ModelCard:
    digests = sources.digests()
    levels = len(backbone.unet.config.block_out_channels)
    up_blocks = tuple(range(max(0, levels - TAPPED), levels))
    return ModelCard(
        name=name,
        version=next(iter(digests.values()))[:12],
        description=f"Latent diffusion model imported from {sources.ldm.name}, encoder from"
        f" {sources.encoder.name}. Conditioner: {conditioning.kind}.",
        intended_use="For research, as a base for heads trained on one's own annotations."
        " Not for diagnosis.",
        licence="; ".join(sources.licences) or "not stated at the import; ask the weights' owners",
        mpp=MPP,
        tile_m=TILE_M,
        margin_m=MARGIN_M,
        cell_m=max(1, backbone.autoencoder.factor // 2),  # the last blocks have latent pixels
        features=FeatureSpec(up_blocks=up_blocks, conditioned=conditioning.depends),
        schedule=asdict(source.schedule),
        heads={},
        files={},
        training=_history(sources, source),
        sources=digests,
    )


def _history(sources: Sources, source: LatentDiffusion) -> Mapping[str, Any]:
    """Return what the card says of the making."""
    return {
        "imported": date.today().isoformat(),
        "unet weights": "exponential moving average" if source.averaged else "as trained",
        "architecture": "from the configuration"
        if source.params
        else "from the weights' shapes; one attention head, as in the published configuration",
        "encoder pixels": sources.pixels,
        "ours": OURS,
    }
