"""Random streams and smooth random fields, deterministic for a seed."""

from __future__ import annotations

import zlib

import numpy as np
from scipy import ndimage

Shape = tuple[int, int]


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Return the random stream of one purpose: drawing more from one never shifts another."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def smooth_noise(rng: np.random.Generator, shape: Shape, sigma: float) -> np.ndarray:
    """Return a Gaussian random field, float32 [H, W], mean 0, variance 1, blurred by `sigma` px.

    It is a window on an endless field: a small image sees a part of a blob, not a smaller blob.
    """
    step = max(1, int(sigma / (3 if sigma < 30 else 5)))
    sigma_coarse = sigma / step
    pad = int(np.ceil(4 * sigma_coarse))
    rows, cols = (int(np.ceil(n / step)) + 2 for n in shape)
    white = rng.standard_normal((rows + 2 * pad, cols + 2 * pad), dtype=np.float32)
    field = ndimage.gaussian_filter(white, sigma_coarse, mode="wrap", truncate=3.2)
    field = field[pad : pad + rows, pad : pad + cols] * np.float32(
        2 * np.sqrt(np.pi) * sigma_coarse
    )
    if step > 1:
        return enlarge(field, step, shape)
    return np.ascontiguousarray(field[: shape[0], : shape[1]])


def enlarge(coarse: np.ndarray, step: int, shape: Shape) -> np.ndarray:
    """Return a coarse field interpolated linearly to float32 [H, W], `step` pixels per cell."""
    by_columns = _lerp(np.ascontiguousarray(coarse.T, dtype=np.float32), step, shape[1])
    return _lerp(np.ascontiguousarray(by_columns.T), step, shape[0])


def _lerp(field: np.ndarray, step: int, length: int) -> np.ndarray:
    at = np.arange(length, dtype=np.float32) / np.float32(step)
    low = np.minimum(at.astype(np.int64), len(field) - 1)
    high = np.minimum(low + 1, len(field) - 1)
    weight = (at - low)[:, None]
    out = field[high]
    out -= field[low]
    out *= weight
    out += field[low]
    return out
