"""Where what kind of tissue lies: smooth random fields, cut so that every class gets its share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from qupath_bridge.demo.glands import GlandField, draw_glands
from qupath_bridge.demo.noise import Shape, enlarge, smooth_noise, stream

BACKGROUND, TUMOR, STROMA, IMMUNE, NECROSIS, OTHER = range(6)

STEP = 4  # pixels per cell of the coarse grid on which shares are measured
SMALLEST_PATCH_PX = 4500  # about 38 um across: less is a few cells, not a patch of tissue
MEAN_SHARES = np.array([0.38, 0.33, 0.11, 0.08, 0.10])  # tumor, stroma, immune, necrosis, glands


@dataclass(frozen=True)
class Layout:
    """`codes` uint8 [H, W] of tissue classes, and the glands in it."""

    codes: np.ndarray
    glands: GlandField


def draw_layout(seed: int, shape: Shape, coverage: float | None) -> Layout:
    """Return the layout of one slide; `coverage` is the share of the image that is tissue."""
    tissue = draw_tissue(stream(seed, "tissue"), shape, coverage)
    shares = draw_shares(stream(seed, "shares"), shape)
    rng = stream(seed, "classes")
    region = smooth_noise(rng, shape, 380.0)  # tumour where high, normal glands where low
    glands = draw_glands(stream(seed, "glands"), tissue, -region, share=shares[4])
    codes = np.where(tissue, STROMA, BACKGROUND).astype(np.uint8)
    free = tissue & (glands.depth < -14)
    tumor = _cut(_tumor_score(rng, shape, region), free, shares[0] + shares[3], tissue)
    _paint(codes, tumor, TUMOR)
    dead = _cut(_necrosis_score(rng, tumor), _core(tumor), shares[3], tissue)
    _paint(codes, dead, NECROSIS)
    immune = _cut(_immune_score(rng, tumor), free & (codes == STROMA), shares[2], tissue)
    _paint(codes, immune, IMMUNE)
    codes[glands.depth > 0] = OTHER
    return Layout(codes, glands)


def draw_shares(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return each class's share of the tissue, float [5]: balanced on slides, varied on patches."""
    evenness = np.clip(shape[0] * shape[1] / 400_000, 2.2, 120.0)
    shares = rng.dirichlet(MEAN_SHARES * evenness)
    if min(shape) >= 2048:
        shares = np.maximum(shares, MEAN_SHARES * 0.6)
    return shares / shares.sum()


def draw_tissue(rng: np.random.Generator, shape: Shape, coverage: float | None) -> np.ndarray:
    """Return where tissue lies on the glass, bool [H, W]."""
    if coverage is None:
        is_slide = min(shape) >= 2048
        coverage = rng.uniform(0.54, 0.73) if is_slide else min(1.0, rng.uniform(0.55, 1.7))
    if coverage >= 1:
        return np.ones(shape, dtype=bool)
    height = _pieces(rng, shape)
    for sigma, weight in ((300.0, 0.10), (90.0, 0.035), (22.0, 0.009), (6.0, 0.003)):
        height += np.float32(weight) * smooth_noise(rng, shape, sigma)
    tissue = height > np.quantile(height[::STEP, ::STEP], 1 - coverage)
    tissue &= ~_cracks(rng, shape)
    tissue = _without_specks(tissue, 20_000)
    return ~_without_specks(~tissue, 500)


def _pieces(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return a landscape whose hills are pieces of tissue, float32 [H, W]."""
    count = int(rng.integers(1, 4))
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0 : shape[0] : STEP, 0 : shape[1] : STEP].astype(np.float32)
    y, x = y / shape[0] - 0.5, x / shape[1] - 0.5
    best = np.full(x.shape, -np.inf, dtype=np.float32)
    for index in range(count):
        angle = turn + 2 * np.pi * index / count
        away = 0.0 if count == 1 else rng.uniform(0.24, 0.30)
        u, v = x - away * np.cos(angle), y - away * np.sin(angle)
        tilt, flat = rng.uniform(0, np.pi), rng.uniform(0.75, 1.0)
        p, q = u * np.cos(tilt) + v * np.sin(tilt), v * np.cos(tilt) - u * np.sin(tilt)
        best = np.maximum(best, -np.hypot(p * flat, q / flat).astype(np.float32))
    return enlarge(best * np.float32(max(shape) / 4096), STEP, shape)


def _cracks(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return thin tears in the section, bool [H, W]."""
    line = np.abs(smooth_noise(rng, shape, 120.0))
    place = smooth_noise(rng, shape, 260.0)
    return line < 0.05 * (place - 1.2)


def _tumor_score(rng: np.random.Generator, shape: Shape, region: np.ndarray) -> np.ndarray:
    nests = smooth_noise(rng, shape, rng.uniform(42, 95))
    nests += np.float32(0.6) * region
    return _roughen(rng, nests, 0.10)


def _necrosis_score(rng: np.random.Generator, tumor: np.ndarray) -> np.ndarray:
    score = smooth_noise(rng, tumor.shape, rng.uniform(60, 110))
    score += np.minimum(_depth(tumor), 160) / np.float32(90)
    return _roughen(rng, score, 0.12)


def _immune_score(rng: np.random.Generator, tumor: np.ndarray) -> np.ndarray:
    score = smooth_noise(rng, tumor.shape, rng.uniform(30, 62))
    score -= np.minimum(_depth(~tumor), 300) / np.float32(300)
    return _roughen(rng, score, 0.10)


def _roughen(rng: np.random.Generator, score: np.ndarray, amount: float) -> np.ndarray:
    """Return a score whose level lines wander at the scale of cells."""
    score += np.float32(amount) * smooth_noise(rng, score.shape, 18.0)
    score += np.float32(amount / 2.5) * smooth_noise(rng, score.shape, 6.0)
    return score


def _core(tumor: np.ndarray) -> np.ndarray:
    """Return the tumour without the rim of cells that blood still reaches."""
    return _depth(tumor) > 26


def _depth(mask: np.ndarray) -> np.ndarray:
    """Return the distance to the mask's edge in pixels, float32 [H, W], 0 outside."""
    coarse = ndimage.distance_transform_edt(mask[::STEP, ::STEP])
    return enlarge(coarse.astype(np.float32) * STEP, STEP, mask.shape)


def _cut(score: np.ndarray, where: np.ndarray, share: float, tissue: np.ndarray) -> np.ndarray:
    """Return the highest part of `score` inside `where` that makes up `share` of the tissue."""
    inside = where[::STEP, ::STEP]
    wanted = share * np.count_nonzero(tissue[::STEP, ::STEP])
    available = np.count_nonzero(inside)
    if available == 0 or wanted < 1:
        return np.zeros_like(where)
    level = np.quantile(score[::STEP, ::STEP][inside], 1 - min(1.0, wanted / available))
    chosen = where & (score > level)
    return _without_specks(chosen, SMALLEST_PATCH_PX) & where


def _paint(codes: np.ndarray, mask: np.ndarray, code: int) -> None:
    """Write a class and close its pinholes, so that no truth is smaller than a few cells."""
    codes[mask] = code
    codes[~_without_specks(~mask, SMALLEST_PATCH_PX // 2) & (codes != BACKGROUND)] = code


def _without_specks(mask: np.ndarray, smallest_px: int) -> np.ndarray:
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    keep = sizes >= min(smallest_px, mask.size // 40)
    keep[0] = False
    return keep[labels]
