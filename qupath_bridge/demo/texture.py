"""What lies between the nuclei: cytoplasm, collagen, debris, secretion; as dye densities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from qupath_bridge.demo.layout import IMMUNE, NECROSIS, OTHER, STROMA, TUMOR, Layout
from qupath_bridge.demo.noise import Shape, enlarge, smooth_noise, stream


@dataclass(frozen=True)
class Dyes:
    """Optical densities of haematoxylin and eosin, float32 [H, W]."""

    haematoxylin: np.ndarray
    eosin: np.ndarray


@dataclass(frozen=True)
class Fibres:
    """Collagen: `density` float32 [H, W], mean 0, variance near 1; `angle` of its fibres."""

    density: np.ndarray
    angle: np.ndarray


def draw_fibres(seed: int, shape: Shape) -> Fibres:
    """Return wavy fibres: noise that is long along a bent grain and short across it."""
    rng = stream(seed, "fibres")
    step = 4
    coarse = (shape[0] // step + 2, shape[1] // step + 2)
    turn = rng.uniform(0, 2 * np.pi)
    y, x = (np.indices(coarse) * step).astype(np.float32)
    across = x * np.cos(turn) + y * np.sin(turn)
    along = y * np.cos(turn) - x * np.sin(turn)
    for sigma, bend in ((260.0, 190.0), (80.0, 36.0), (26.0, 5.0)):
        across += np.float32(bend) * smooth_noise(rng, coarse, sigma / step)
    angle = np.arctan2(np.gradient(across, axis=0), np.gradient(across, axis=1)) + np.pi / 2
    across, along = enlarge(across, step, shape), enlarge(along, step, shape)
    density = _streaks(rng, along / 34, across / 3.4)
    density += np.float32(0.8) * _streaks(rng, along / 75, across / 11)
    return Fibres(density * np.float32(0.78), enlarge(angle, step, shape))


def _streaks(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return noise of unit variance read at (u, v), where one unit is about one streak."""
    side = 512
    table = ndimage.gaussian_filter(
        rng.standard_normal((side, side), dtype=np.float32), 0.8, mode="wrap"
    )
    table *= np.float32(2 * np.sqrt(np.pi) * 0.8)
    return ndimage.map_coordinates(table, [v, u], order=1, mode="grid-wrap", output=np.float32)


def draw_matrix(seed: int, layout: Layout, fibres: Fibres) -> Dyes:
    """Return the dyes of everything but nuclei."""
    rng = stream(seed, "matrix")
    shape = layout.codes.shape
    fine, mid, broad = (smooth_noise(rng, shape, sigma) for sigma in (1.3, 4.5, 55.0))
    dyes = Dyes(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    noise = (fine, mid, broad)
    _stroma(rng, layout.codes == STROMA, fibres.density, noise, dyes)
    _tumor(rng, layout.codes == TUMOR, noise, dyes)
    _immune(rng, layout.codes == IMMUNE, noise, dyes)
    _necrosis(rng, layout.codes == NECROSIS, noise, dyes)
    _gland(rng, layout, noise, dyes)
    np.maximum(dyes.eosin, 0, out=dyes.eosin)
    np.maximum(dyes.haematoxylin, 0, out=dyes.haematoxylin)
    return dyes


Noise = tuple[np.ndarray, np.ndarray, np.ndarray]


def _stroma(
    rng: np.random.Generator, at: np.ndarray, fibre: np.ndarray, noise: Noise, dyes: Dyes
) -> None:
    fine, mid, broad = (layer[at] for layer in noise)
    loose = np.clip(0.5 + 0.45 * broad + rng.uniform(-0.3, 0.3), 0, 1)  # 0 dense, 1 loose
    base = rng.uniform(0.44, 0.58) * (1 - 0.42 * loose)
    contrast = 0.13 + 0.13 * loose
    eosin = base + contrast * fibre[at] + 0.035 * fine + 0.03 * mid
    dyes.eosin[at] = np.maximum(eosin, 0.05)
    dyes.haematoxylin[at] = 0.06 + 0.05 * loose + 0.018 * mid


def _tumor(rng: np.random.Generator, at: np.ndarray, noise: Noise, dyes: Dyes) -> None:
    fine, mid, broad = (layer[at] for layer in noise)
    eosin, blue = rng.uniform(0.34, 0.50), rng.uniform(0.22, 0.36)
    dyes.eosin[at] = eosin + 0.10 * mid + 0.03 * fine + 0.04 * broad
    dyes.haematoxylin[at] = blue + 0.055 * mid + 0.03 * fine + 0.03 * broad


def _immune(rng: np.random.Generator, at: np.ndarray, noise: Noise, dyes: Dyes) -> None:
    fine, mid, broad = (layer[at] for layer in noise)
    dyes.eosin[at] = rng.uniform(0.18, 0.30) + 0.08 * mid + 0.03 * fine
    dyes.haematoxylin[at] = rng.uniform(0.12, 0.22) + 0.06 * mid + 0.03 * broad


def _necrosis(rng: np.random.Generator, at: np.ndarray, noise: Noise, dyes: Dyes) -> None:
    fine, mid, broad = (layer[at] for layer in noise)
    lumps = np.maximum(mid, -1.2)
    eosin = rng.uniform(0.36, 0.58)
    dyes.eosin[at] = np.maximum(eosin + 0.10 * fine + 0.12 * lumps + 0.06 * broad, 0.10)
    dyes.haematoxylin[at] = rng.uniform(0.07, 0.15) + 0.05 * fine + 0.03 * lumps


def _gland(rng: np.random.Generator, layout: Layout, noise: Noise, dyes: Dyes) -> None:
    at = (layout.codes == OTHER) & ~layout.glands.lumen
    fine, mid, _ = (layer[at] for layer in noise)
    height = layout.glands.depth[at] / layout.glands.wall[at]  # 0 at the base, 1 at the lumen
    brush = np.exp(-(((height - 0.96) / 0.06) ** 2))
    mucin = rng.uniform(0.0, 0.25)
    dyes.eosin[at] = rng.uniform(0.34, 0.46) - mucin * height + 0.16 * brush + 0.05 * mid
    dyes.haematoxylin[at] = 0.20 - 0.12 * height + 0.03 * fine + 0.02 * mid
    _secretion(rng, layout, noise, dyes)


def _secretion(rng: np.random.Generator, layout: Layout, noise: Noise, dyes: Dyes) -> None:
    """Fill lumens: mostly empty, some with pink fluid."""
    at = layout.glands.lumen & (layout.codes == OTHER)
    fine, mid, broad = (layer[at] for layer in noise)
    fluid = np.clip(1.6 * (broad - rng.uniform(0.3, 1.4)), 0, 1)
    dyes.eosin[at] = 0.015 + fluid * (0.24 + 0.05 * mid + 0.03 * fine)
    dyes.haematoxylin[at] = 0.012 + 0.03 * fluid
