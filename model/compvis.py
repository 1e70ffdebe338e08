"""Latent diffusion models in CompVis' layout, as networks in diffusers' layout.

Source: Rombach et al. 2022; the layout is that of the checkpoints of Large-Image-Diffusion
(Graikos et al. 2024) and ZoomLDM (Yellapragada et al. 2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoints import first_of, read_checkpoint, read_settings
from model.errors import ModelError
from model.schedule import NoiseSchedule

UNET, FIRST_STAGE, CONDITIONER = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
EMA = "model_ema."
SCALE_FACTOR = "scale_factor"
_ROUNDING = 1e-4
# Tables of the noise schedule and what else a LatentDiffusion keeps beside its networks.
_BESIDE = (
    *("betas", "alphas_", "sqrt_", "log_one_minus_", "posterior_", "lvlb_weights", "logvar"),
    *("cond_ids", SCALE_FACTOR, "model_ema.decay", "model_ema.num_updates"),
    *("first_stage_model.loss.", "first_stage_model.model_ema."),
)


@dataclass(frozen=True)
class LatentDiffusion:
    """What a CompVis checkpoint and its configuration hold.

    unet, first_stage, conditioner: tensors under the names they have inside their network.
    params: `model.params` of the configuration, empty without one. averaged: whether `unet` is
    the exponential moving average.
    """

    path: Path
    unet: Mapping[str, Tensor]
    first_stage: Mapping[str, Tensor]
    conditioner: Mapping[str, Tensor]
    schedule: NoiseSchedule
    scale_factor: float
    averaged: bool
    params: Mapping[str, Any] = field(default_factory=dict)
    config_path: Path | None = None

    def settings_of(self, network: str, *inner: str) -> Mapping[str, Any]:
        """Return the settings of `unet_config` or another part; empty without a configuration.

        Raises:
            ModelError: there is a configuration and it has no such part.
        """
        found: Any = self.params
        for key in (network, "params", *inner) if self.params else ():
            found = found.get(key) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            where = ".".join(("model.params", network, "params", *inner))
            raise ModelError(f"{self.config_path} has no {where}; pass the model's own YAML file")
        return found


def read_latent_diffusion(path: Path, config: Path | None = None) -> LatentDiffusion:
    """Return the latent diffusion model in a CompVis checkpoint, EMA weights if it has any.

    Raises:
        ModelError: a file cannot be read, or is no latent diffusion model of this kind.
    """
    tensors = read_checkpoint(path, ("state_dict",))
    params = _params(config)
    _check_sections(path, tensors)
    unet, averaged = _unet_weights(path, tensors)
    return LatentDiffusion(
        path=path,
        unet=unet,
        first_stage=_section(tensors, FIRST_STAGE),
        conditioner=_section(tensors, CONDITIONER),
        schedule=_schedule(path, tensors.get("betas"), params, config),
        scale_factor=_scale_factor(tensors.get(SCALE_FACTOR), params, config),
        averaged=averaged,
        params=params,
        config_path=config,
    )


def _section(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix) and not key.startswith(_BESIDE)
    }


def _check_sections(path: Path, tensors: Mapping[str, Tensor]) -> None:
    known = (UNET, FIRST_STAGE, CONDITIONER, EMA, *_BESIDE)
    strange = [key for key in tensors if not key.startswith(known)]
    if strange:
        raise ModelError(
            f"{path} is not a latent diffusion model in CompVis' layout: {first_of(strange)}"
        )
    for prefix in (UNET, FIRST_STAGE):
        if not _section(tensors, prefix):
            raise ModelError(f"{path} lacks every key that begins with {prefix}")


def _unet_weights(path: Path, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """Return the U-Net's weights and whether they are averaged ones.

    Averages are stored under the names of the weights without their dots.
    """
    plain, averages = _section(tensors, UNET), _section(tensors, EMA)
    if not averages:
        return plain, False
    names = {key: f"diffusion_model.{key}".replace(".", "") for key in plain}
    missing = [EMA + name for name in names.values() if name not in averages]
    if missing:
        raise ModelError(f"{path} has EMA weights but lacks {first_of(missing)}")
    extra = [EMA + name for name in averages if name not in set(names.values())]
    if extra:
        raise ModelError(f"{path} has EMA weights of no weight of its U-Net: {first_of(extra)}")
    return {key: averages[name] for key, name in names.items()}, True


def _params(config: Path | None) -> Mapping[str, Any]:
    if config is None:
        return {}
    model = read_settings(config).get("model")
    params = model.get("params") if isinstance(model, Mapping) else None
    if not isinstance(params, Mapping) or not params:
        raise ModelError(f"{config} has no model.params; pass the model's own YAML file")
    conditioning = params.get("conditioning_key", "crossattn")
    if conditioning != "crossattn":
        raise ModelError(f"{config}: conditioning_key {conditioning!r} is not read, only crossattn")
    if params.get("beta_schedule", "linear") != "linear":
        raise ModelError(f"{config}: beta_schedule {params['beta_schedule']!r} is not read")
    return params


def _schedule(
    path: Path, betas: Tensor | None, params: Mapping[str, Any], config: Path | None
) -> NoiseSchedule:
    """Return the schedule of the configuration, else of the stored betas, else the published."""
    stored = None
    if betas is not None and betas.ndim == 1 and len(betas) > 1:
        start, end = (float(f"{float(betas[i]):.6g}") for i in (0, -1))
        stored = NoiseSchedule(start, end, len(betas))
        roots = betas.double().sqrt()
        straight = torch.linspace(float(roots[0]), float(roots[-1]), len(roots)).to(roots)
        if not torch.allclose(roots, straight, rtol=_ROUNDING):
            raise ModelError(f"{path} was trained with another than the linear noise schedule")
    if not params:
        return stored or NoiseSchedule()
    try:
        given = NoiseSchedule(
            float(params.get("linear_start", 1e-4)),
            float(params.get("linear_end", 2e-2)),
            int(params.get("timesteps", 1000)),
        )
    except (TypeError, ValueError) as error:
        raise ModelError(f"{config} has no usable noise schedule ({error})") from error
    if stored is not None and not _same(given, stored):
        raise ModelError(f"{config} gives {given}, but the weights of {path} have {stored}")
    return given


def _same(one: NoiseSchedule, other: NoiseSchedule) -> bool:
    near = abs(one.beta_start - other.beta_start) <= _ROUNDING * other.beta_start
    near = near and abs(one.beta_end - other.beta_end) <= _ROUNDING * other.beta_end
    return near and one.timesteps == other.timesteps


def _scale_factor(stored: Tensor | None, params: Mapping[str, Any], config: Path | None) -> float:
    if stored is not None and stored.numel() == 1:
        return float(stored)
    try:
        return float(params.get(SCALE_FACTOR, 1.0))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{config} has no usable {SCALE_FACTOR} ({error})") from error
