"""Nuclei as single ellipses: where they lie, how they look, and stamping them all at once."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from qupath_bridge.demo.noise import Shape

BATCH_PX = 4_000_000


@dataclass(frozen=True)
class Nuclei:
    """Many nuclei, one array entry each; lengths in pixels, `dye` in optical density.

    `rim` > 0 is a vesicular nucleus with a dark membrane, `clump` how coarse its chromatin is,
    `bumps` how far its outline leaves the ellipse, `nucleolus` the strength of a dark dot.
    """

    x: np.ndarray
    y: np.ndarray
    long: np.ndarray
    short: np.ndarray
    angle: np.ndarray
    dye: np.ndarray
    rim: np.ndarray
    clump: np.ndarray
    bumps: np.ndarray
    nucleolus: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: np.ndarray) -> Nuclei:
        return Nuclei(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True)
class Look:
    """The distributions one kind of nucleus is drawn from: (mean, relative spread) or limits."""

    long: tuple[float, float]
    aspect: tuple[float, float]
    dye: tuple[float, float]
    rim: float = 0.0
    clump: float = 0.15
    bumps: float = 0.04
    nucleolus: float = 0.0


def draw_nuclei(
    rng: np.random.Generator, look: Look, points: np.ndarray, angle: np.ndarray | None = None
) -> Nuclei:
    """Return nuclei of one look at `points`, float [N, 2] (x, y)."""
    count = len(points)
    long = look.long[0] * np.exp(rng.normal(0, look.long[1], count))
    aspect = rng.uniform(*look.aspect, count)
    free_angle = rng.uniform(0, np.pi, count)
    return Nuclei(
        x=points[:, 0],
        y=points[:, 1],
        long=long,
        short=long / aspect,
        angle=free_angle if angle is None else angle,
        dye=look.dye[0] * np.exp(rng.normal(0, look.dye[1], count)),
        rim=np.clip(rng.normal(look.rim, 0.12, count), 0, None) if look.rim else np.zeros(count),
        clump=np.full(count, look.clump),
        bumps=np.abs(rng.normal(0, look.bumps, count)),
        nucleolus=look.nucleolus * (rng.random(count) < 0.6),
    )


def scatter(rng: np.random.Generator, shape: Shape, spacing: float, jitter: float) -> np.ndarray:
    """Return points about `spacing` px apart all over the image, float64 [N, 2] (x, y)."""
    rows = int(shape[0] / (spacing * 0.866)) + 3
    cols = int(shape[1] / spacing) + 3
    row, col = np.mgrid[0:rows, 0:cols].astype(float)
    x = (col - 1 + 0.5 * (row % 2)) * spacing
    y = (row - 1) * spacing * 0.866
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    points += rng.uniform(-jitter, jitter, points.shape) * spacing
    return points


def inside(points: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return which points lie on the mask (beyond the image: on its nearest edge pixel)."""
    cols = np.clip(points[:, 0].astype(int), 0, mask.shape[1] - 1)
    rows = np.clip(points[:, 1].astype(int), 0, mask.shape[0] - 1)
    return mask[rows, cols]


def stamp(nuclei: Nuclei, dye: np.ndarray, cover: np.ndarray, grain: np.ndarray) -> None:
    """Draw nuclei into `dye` (optical density, the darker wins) and `cover` (0..1), in place.

    `grain` is noise [H, W] of mean 0 that chromatin takes its texture from.
    """
    half = np.ceil(nuclei.long * (1 + 3 * nuclei.bumps) + 2).astype(int)
    for size in np.unique(half):
        of_size = np.flatnonzero(half == size)
        per_batch = max(1, BATCH_PX // (2 * size + 1) ** 2)
        for start in range(0, len(of_size), per_batch):
            _stamp_batch(
                nuclei.take(of_size[start : start + per_batch]), int(size), dye, cover, grain
            )


def _stamp_batch(
    nuclei: Nuclei, half: int, dye: np.ndarray, cover: np.ndarray, grain: np.ndarray
) -> None:
    height, width = dye.shape
    span = np.arange(-half, half + 1)
    cols = np.rint(nuclei.x).astype(int)[:, None] + span
    rows = np.rint(nuclei.y).astype(int)[:, None] + span
    dx = (cols - nuclei.x[:, None]).astype(np.float32)[:, None, :]
    dy = (rows - nuclei.y[:, None]).astype(np.float32)[:, :, None]
    on_image = ((rows >= 0) & (rows < height))[:, :, None] & ((cols >= 0) & (cols < width))[:, None]
    flat = rows[:, :, None] * width + cols[:, None, :]
    one = _columns(nuclei)
    radius = _radius(one, dx, dy)
    edge_px = (1 - radius) * one["short"]
    hit = on_image & (edge_px > -1.0)
    flat, edge = flat[hit], np.clip(edge_px[hit] * 0.7 + 0.5, 0, 1)
    shade = _shade(one, radius, dx, dy)[hit]
    clump = np.broadcast_to(one["clump"], hit.shape)[hit]
    shade *= 1 + clump * grain.ravel()[flat]
    np.maximum.at(dye.ravel(), flat, np.clip(shade, 0, None) * edge)
    np.maximum.at(cover.ravel(), flat, edge)


def _columns(nuclei: Nuclei) -> dict[str, np.ndarray]:
    return {
        f.name: getattr(nuclei, f.name).astype(np.float32)[:, None, None] for f in fields(nuclei)
    }


def _radius(one: dict[str, np.ndarray], dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Return the distance from the centre, 1 on the outline."""
    cos, sin = np.cos(one["angle"]), np.sin(one["angle"])
    u = (dx * cos + dy * sin) / one["long"]
    v = (dy * cos - dx * sin) / one["short"]
    phi = np.arctan2(v, u)
    phase = one["angle"] * 7.0 + one["x"]
    wave = np.cos(2 * phi + phase) + 0.8 * np.cos(3 * phi - 2 * phase) + 0.4 * np.sin(5 * phi)
    return np.hypot(u, v) / (1 + one["bumps"] * wave)


def _shade(
    one: dict[str, np.ndarray], radius: np.ndarray, dx: np.ndarray, dy: np.ndarray
) -> np.ndarray:
    """Return the optical density inside each nucleus before its chromatin texture."""
    membrane = np.exp(-(((radius - 0.88) / 0.16) ** 2))
    shade = one["dye"] * (1 - 0.35 * one["rim"] + one["rim"] * membrane)
    phase = one["angle"] * 11.0 + one["y"]
    away = 0.35 * one["short"]
    spot = (dx - away * np.cos(phase)) ** 2 + (dy - away * np.sin(phase)) ** 2
    shade += one["nucleolus"] * np.exp(-spot / 3.5)
    return shade
