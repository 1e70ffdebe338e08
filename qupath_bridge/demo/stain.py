"""From dye densities to a camera's picture: every seed is another laboratory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from qupath_bridge.demo.noise import smooth_noise, stream
from qupath_bridge.demo.texture import Dyes

HAEMATOXYLIN = (np.array([0.60, 0.72, 0.34]), np.array([0.68, 0.66, 0.24]))
EOSIN = (np.array([0.10, 0.88, 0.42]), np.array([0.24, 0.85, 0.50]))


@dataclass(frozen=True)
class Stain:
    """A laboratory: absorbance of each dye per unit (RGB), its strength, lamp and lens."""

    haematoxylin: np.ndarray
    eosin: np.ndarray
    lamp: np.ndarray
    blur: float
    noise: float


def draw_stain(seed: int) -> Stain:
    """Return the stain and scanner of one seed."""
    rng = stream(seed, "stain")
    return Stain(
        haematoxylin=_vector(rng, HAEMATOXYLIN) * rng.uniform(0.78, 1.22),
        eosin=_vector(rng, EOSIN) * rng.uniform(0.68, 1.3),
        lamp=rng.uniform(236, 250) + rng.uniform(-3.5, 3.5, 3),
        blur=float(rng.uniform(0.55, 0.95)),
        noise=float(rng.uniform(1.2, 3.2)),
    )


def _vector(rng: np.random.Generator, ends: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    mix = rng.random()
    vector = ends[0] * mix + ends[1] * (1 - mix) + rng.normal(0, 0.022, 3)
    return np.clip(vector, 0.02, None) / np.linalg.norm(vector)


def develop(seed: int, dyes: Dyes) -> np.ndarray:
    """Return the picture of dyed tissue, uint8 [H, W, 3] (Beer and Lambert's law)."""
    stain = draw_stain(seed)
    rng = stream(seed, "camera")
    shape = dyes.eosin.shape
    thickness = 1 + np.float32(0.05) * smooth_noise(rng, shape, 220.0)
    light = 1 + np.float32(0.006) * smooth_noise(rng, shape, 500.0)
    pixels = np.empty((*shape, 3), dtype=np.uint8)
    for channel in range(3):
        density = dyes.haematoxylin * np.float32(stain.haematoxylin[channel])
        density += dyes.eosin * np.float32(stain.eosin[channel])
        density *= thickness
        picture = np.exp(-density) * light
        picture *= np.float32(stain.lamp[channel])
        picture = ndimage.gaussian_filter(picture, stain.blur, mode="nearest", truncate=3.0)
        picture += np.float32(stain.noise) * rng.standard_normal(shape, dtype=np.float32)
        pixels[..., channel] = np.clip(np.rint(picture), 0, 255)
    return pixels
