"""The cells of each class of tissue, and the debris that dead ones leave."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qupath_bridge.demo.glands import Gland
from qupath_bridge.demo.layout import BACKGROUND, IMMUNE, NECROSIS, STROMA, TUMOR, Layout
from qupath_bridge.demo.noise import smooth_noise, stream
from qupath_bridge.demo.nuclei import Look, Nuclei, draw_nuclei, inside, scatter, stamp

LYMPHOCYTE = Look((6.2, 0.09), (1.0, 1.22), (1.55, 0.10), clump=0.22, bumps=0.03)
PLASMA = Look((7.2, 0.10), (1.05, 1.35), (1.25, 0.12), rim=0.25, clump=0.35, bumps=0.03)
FIBROBLAST = Look((15.0, 0.25), (3.2, 6.0), (1.05, 0.18), clump=0.15, bumps=0.05)
ENDOTHELIUM = Look((10.0, 0.20), (1.8, 3.2), (1.0, 0.15), clump=0.15, bumps=0.05)
COLUMNAR = Look((9.6, 0.13), (1.55, 2.2), (1.12, 0.13), rim=0.12, clump=0.18, bumps=0.03)
GHOST = Look((9.0, 0.25), (1.0, 1.6), (0.20, 0.30), rim=0.3, clump=0.5, bumps=0.10)
DUST = Look((1.9, 0.45), (1.0, 1.6), (0.95, 0.25), clump=0.1, bumps=0.05)
PYKNOTIC = Look((4.4, 0.25), (1.0, 1.5), (1.6, 0.15), clump=0.1, bumps=0.10)


@dataclass(frozen=True)
class CellLayer:
    """Haematoxylin density in nuclei, and how much of each pixel is nucleus; float32 [H, W]."""

    dye: np.ndarray
    cover: np.ndarray


def draw_cells(seed: int, layout: Layout, fibre_angle: np.ndarray) -> CellLayer:
    """Return the nuclei of a whole slide; `fibre_angle` is the fibres' direction, float [H, W]."""
    shape = layout.codes.shape
    layer = CellLayer(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    rng = stream(seed, "cells")
    grain = smooth_noise(rng, shape, 1.6)
    for nuclei in (
        *_tumor(rng, layout),
        *_immune(rng, layout),
        *_stroma(rng, layout, fibre_angle),
        *_necrosis(rng, layout),
        *[_columnar(rng, gland) for gland in layout.glands.glands],
    ):
        keep = inside(np.stack([nuclei.x, nuclei.y], axis=1), layout.codes != BACKGROUND)
        stamp(nuclei.take(np.flatnonzero(keep)), layer.dye, layer.cover, grain)
    return layer


def _tumor(rng: np.random.Generator, layout: Layout) -> list[Nuclei]:
    size = rng.uniform(8.8, 11.5)
    look = Look(
        long=(size, rng.uniform(0.14, 0.24)),
        aspect=(1.0, rng.uniform(1.4, 1.8)),
        dye=(rng.uniform(0.95, 1.25), 0.22),
        rim=rng.uniform(0.15, 0.6),
        clump=0.28,
        bumps=0.07,
        nucleolus=rng.uniform(0.2, 0.9),
    )
    points = scatter(rng, layout.codes.shape, size * rng.uniform(2.0, 2.35), 0.36)
    points = points[inside(points, layout.codes == TUMOR)]
    points = points[rng.random(len(points)) < 0.94]
    guests = scatter(rng, layout.codes.shape, 95, 0.5)  # lymphocytes inside tumour
    guests = guests[inside(guests, layout.codes == TUMOR)]
    guests = guests[rng.random(len(guests)) < rng.uniform(0.05, 0.6)]
    return [draw_nuclei(rng, look, points), draw_nuclei(rng, LYMPHOCYTE, guests)]


def _immune(rng: np.random.Generator, layout: Layout) -> list[Nuclei]:
    points = scatter(rng, layout.codes.shape, rng.uniform(13.6, 15.6), 0.34)
    points = points[inside(points, layout.codes == IMMUNE)]
    points = points[rng.random(len(points)) < 0.95]
    plasma = rng.random(len(points)) < rng.uniform(0.02, 0.25)
    return [
        draw_nuclei(rng, LYMPHOCYTE, points[~plasma]),
        draw_nuclei(rng, PLASMA, points[plasma]),
    ]


def _stroma(rng: np.random.Generator, layout: Layout, fibre_angle: np.ndarray) -> list[Nuclei]:
    shape = layout.codes.shape
    here = (layout.codes == STROMA) & (layout.glands.depth < -6)
    crowd = smooth_noise(rng, shape, 70.0)
    points = scatter(rng, shape, rng.uniform(38, 52), 0.48)
    points = points[inside(points, here)]
    cols = np.clip(points[:, 0].astype(int), 0, shape[1] - 1)
    rows = np.clip(points[:, 1].astype(int), 0, shape[0] - 1)
    kept = rng.random(len(points)) < 0.72 + 0.3 * crowd[rows, cols]
    points, angle = points[kept], fibre_angle[rows, cols][kept]
    angle = angle + rng.normal(0, 0.22, len(angle))
    plump = rng.random(len(points)) < 0.2
    strays = scatter(rng, shape, 75, 0.5)
    strays = strays[inside(strays, here)]
    strays = strays[rng.random(len(strays)) < rng.uniform(0.1, 0.5)]
    return [
        draw_nuclei(rng, FIBROBLAST, points[~plump], angle[~plump]),
        draw_nuclei(rng, ENDOTHELIUM, points[plump], angle[plump]),
        draw_nuclei(rng, LYMPHOCYTE, strays),
    ]


def _necrosis(rng: np.random.Generator, layout: Layout) -> list[Nuclei]:
    here = layout.codes == NECROSIS
    drawn = []
    for look, spacing, share in ((GHOST, 25.0, 0.6), (DUST, 9.0, 0.30), (PYKNOTIC, 34.0, 0.35)):
        points = scatter(rng, here.shape, spacing, 0.5)
        points = points[inside(points, here)]
        points = points[rng.random(len(points)) < share]
        drawn.append(draw_nuclei(rng, look, points))
    return drawn


def _columnar(rng: np.random.Generator, gland: Gland) -> Nuclei:
    """Return a gland's nuclei: side by side along its wall, upright, nearer to its outside."""
    around = 2 * np.pi * (gland.radius - 0.3 * gland.wall)
    count = int(around / 11.5)
    theta = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count
    level = 0.34 + rng.normal(0, 0.075, count)
    radius = gland.contour(theta) - level * gland.wall
    points = np.stack([gland.x + radius * np.cos(theta), gland.y + radius * np.sin(theta)], axis=1)
    return draw_nuclei(rng, COLUMNAR, points, theta + rng.normal(0, 0.12, count))
