"""Stain jitter: the same tissue as another laboratory would have stained it."""

from __future__ import annotations

import numpy as np


def jittered(pixels: np.ndarray, rng: np.random.Generator, strength: float = 0.15) -> np.ndarray:
    """Return uint8 [H, W, 3] with each channel's optical density scaled and shifted a little.

    `strength` is the standard deviation of the factors; they stay within 0.5 to 1.7.
    """
    density = -np.log((pixels.astype(np.float32) + 1) / 256)
    common, own = rng.normal(0, strength, 1), rng.normal(0, strength / 2, 3)
    factor = np.clip(1 + common + own, 0.5, 1.7).astype(np.float32)
    return np.clip(256 * np.exp(-density * factor) - 1, 0, 255).round().astype(np.uint8)
