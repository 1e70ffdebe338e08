"""The forward diffusion process: how much noise at a timestep, and which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class NoiseSchedule:
    """The "linear" schedule of latent diffusion: betas linear in their square roots.

    Source: Rombach et al. 2022, CompVis `make_beta_schedule("linear")`, which diffusers calls
    `scaled_linear`.
    """

    beta_start: float = 0.0015
    beta_end: float = 0.0195
    timesteps: int = 1000

    def alphas_cumprod(self) -> np.ndarray:
        """Return abar_t for every timestep, float64 [timesteps], in (0, 1), falling."""
        roots = np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.timesteps)
        return np.cumprod(1.0 - roots**2)

    def mix(self, timestep: int) -> tuple[float, float]:
        """Return the weights (signal, noise) of z_t = signal * z_0 + noise * eps.

        Raises:
            ValueError: the timestep is not one of the schedule's.
        """
        if not 0 <= timestep < self.timesteps:
            raise ValueError(f"timestep must be in 0..{self.timesteps - 1}, got {timestep}")
        abar = float(self.alphas_cumprod()[timestep])
        return abar**0.5, (1.0 - abar) ** 0.5


def noise_field(
    seed: int, timestep: int, origins: Sequence[tuple[int, int]], shape: tuple[int, int, int]
) -> np.ndarray:
    """Return standard normal noise, float32 [B, C, h, w], for windows of one endless field.

    `origins` are the windows' (x, y) in latent pixels of the slide, negative ones included. The
    value at a place depends on seed, timestep, channel and place alone, so overlapping patches
    see the same noise where they overlap, whatever the tiling.
    """
    channels, height, width = shape
    key = _mix(_mix(np.uint64(seed & 0xFFFFFFFFFFFFFFFF)) ^ np.uint64(timestep))
    planes = _mix(key ^ _mix(np.arange(channels, dtype=np.uint64)))
    out = np.empty((len(origins), channels, height, width), np.float32)
    for window, (x, y) in zip(out, origins, strict=True):
        rows = _mix(planes[:, None] ^ np.arange(y, y + height).astype(np.int64).view(np.uint64))
        columns = np.arange(x, x + width).astype(np.int64).view(np.uint64)
        window[:] = _normal(_mix(rows[:, :, None] ^ (columns * _GOLDEN)))
    return out


def _mix(value: Any) -> Any:
    """Return uint64 scrambled; the finaliser of SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        value = np.asarray(value, np.uint64) + _GOLDEN
        value = (value ^ (value >> np.uint64(30))) * _MIX_1
        value = (value ^ (value >> np.uint64(27))) * _MIX_2
        return value ^ (value >> np.uint64(31))


def _normal(bits: np.ndarray) -> np.ndarray:
    """Return normal deviates for uniform 64-bit integers; Box and Muller 1958."""
    radius = ((bits >> np.uint64(32)) + 1.0) / 2**32  # (0, 1]: its logarithm is finite
    angle = (bits & np.uint64(0xFFFFFFFF)) / 2**32
    return np.sqrt(-2.0 * np.log(radius)) * np.cos(2.0 * np.pi * angle)
