"""Normal glands: a wall of columnar cells around a lumen, in lobules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qupath_bridge.demo.noise import smooth_noise

FAR = np.float32(-1000.0)


@dataclass(frozen=True)
class Gland:
    """One gland: a wavy closed contour about (x, y); lengths in pixels."""

    x: float
    y: float
    radius: float
    wall: float
    squash: float
    tilt: float
    waves: np.ndarray
    phases: np.ndarray

    @property
    def reach(self) -> float:
        return self.radius * self.squash * (1 + float(np.abs(self.waves).sum()))

    def contour(self, theta: np.ndarray) -> np.ndarray:
        """Return the radius of the outer contour in each direction."""
        phi = theta - self.tilt
        stretch = self.squash / np.hypot(np.cos(phi), self.squash**2 * np.sin(phi))
        order = np.arange(2, 2 + len(self.waves))
        waves = np.cos(np.multiply.outer(theta, order) + self.phases) @ self.waves
        return self.radius * stretch * (1 + waves)


@dataclass(frozen=True)
class GlandField:
    """Depth below the outer contour in pixels, float32 [H, W] (negative outside, clipped far
    away), and the thickness of the wall at each pixel of a gland.
    """

    glands: list[Gland]
    depth: np.ndarray
    wall: np.ndarray

    @property
    def lumen(self) -> np.ndarray:
        return self.depth > self.wall


def draw_glands(
    rng: np.random.Generator, tissue: np.ndarray, zone: np.ndarray, share: float
) -> GlandField:
    """Return glands that together cover about `share` of the tissue, where `zone` is high."""
    depth = np.full(tissue.shape, FAR, dtype=np.float32)
    wall = np.zeros(tissue.shape, dtype=np.float32)
    glands: list[Gland] = []
    target = share * np.count_nonzero(tissue)
    covered = 0.0
    score = zone + np.float32(0.5) * smooth_noise(rng, tissue.shape, 150.0)
    for x, y in _candidates(rng, score):
        if covered >= target - 2000:
            break
        gland = _random_gland(rng, x, y)
        if _fits(gland, glands, tissue):
            glands.append(gland)
            covered += _stamp(gland, depth, wall)
    return GlandField(glands, depth, wall)


def _candidates(rng: np.random.Generator, score: np.ndarray) -> np.ndarray:
    """Return places to try, float [N, 2] (x, y), the best of the zone first, also off the edge."""
    height, width = score.shape
    margin = 90
    count = int((height + 2 * margin) * (width + 2 * margin) / 2200)
    points = rng.uniform((-margin, -margin), (width + margin, height + margin), (count, 2))
    cols = np.clip(points[:, 0].astype(int), 0, width - 1)
    rows = np.clip(points[:, 1].astype(int), 0, height - 1)
    rank = score[rows, cols] + rng.normal(0, 0.12, count)
    return points[np.argsort(-rank, kind="stable")]


def _random_gland(rng: np.random.Generator, x: float, y: float) -> Gland:
    radius = float(np.clip(rng.lognormal(np.log(88), 0.32), 52, 175))
    return Gland(
        x=float(x),
        y=float(y),
        radius=radius,
        wall=float(min(rng.uniform(34, 46), 0.62 * radius)),
        squash=float(rng.uniform(1.0, 1.28)),
        tilt=float(rng.uniform(0, np.pi)),
        waves=rng.normal(0, [0.07, 0.055, 0.035, 0.025]),
        phases=rng.uniform(0, 2 * np.pi, 4),
    )


def _fits(gland: Gland, others: list[Gland], tissue: np.ndarray) -> bool:
    theta = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    reach = gland.contour(theta) + 12
    height, width = tissue.shape
    cols = np.clip((gland.x + reach * np.cos(theta)).astype(int), 0, width - 1)
    rows = np.clip((gland.y + reach * np.sin(theta)).astype(int), 0, height - 1)
    if not tissue[rows, cols].all():
        return False
    for other in others:
        dx, dy = other.x - gland.x, other.y - gland.y
        gap = np.hypot(dx, dy)
        if gap < gland.reach + other.reach + 12:
            angle = np.arctan2(dy, dx)
            fan = angle + np.linspace(-0.7, 0.7, 9)
            ours = gland.contour(fan).max()
            theirs = other.contour(fan + np.pi).max()
            if gap < ours + theirs + 14:
                return False
    return True


def _stamp(gland: Gland, depth: np.ndarray, wall: np.ndarray) -> float:
    """Draw one gland's depth into the field and return its area in pixels inside the image."""
    height, width = depth.shape
    reach = gland.reach + 40
    x0, x1 = max(0, int(gland.x - reach)), min(width, int(gland.x + reach) + 1)
    y0, y1 = max(0, int(gland.y - reach)), min(height, int(gland.y + reach) + 1)
    if x0 >= x1 or y0 >= y1:
        return 0.0
    y, x = np.mgrid[y0:y1, x0:x1]
    dx, dy = x - gland.x, y - gland.y
    theta = np.arctan2(dy, dx)
    here = (gland.contour(theta) - np.hypot(dx, dy)).astype(np.float32)
    window = depth[y0:y1, x0:x1]
    deeper = here > window
    window[deeper] = here[deeper]
    wall[y0:y1, x0:x1][deeper] = gland.wall * (
        1 + 0.12 * np.sin(3 * theta + gland.phases[0])[deeper]
    )
    return float(np.count_nonzero(here > 0))
