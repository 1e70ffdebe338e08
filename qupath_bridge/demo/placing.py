"""Where the demo's two annotations go, so that together they hold all there is to find."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

import numpy as np
from shapely import affinity, set_precision
from shapely.geometry import Point, Polygon

from qupath_bridge.demo.noise import stream
from qupath_bridge.demo.qpproj import REGION_CLASS
from qupath_bridge.geometry import Region

ACROSS_L0 = 1680
STEP = 16
CORE = 0.66  # the square of this share of the width lies inside both outlines
ENOUGH = 0.10  # more of a class than this share of the core makes a place no better


class _Place(NamedTuple):
    row: int
    col: int
    shares: np.ndarray


def place_regions(seed: int, tissue: np.ndarray) -> list[Region]:
    """Return a ragged rectangle and an ellipse with a hole that together show every class.

    `tissue` is the truth, uint8 [H, W]. Outlines lie inside the image and do not overlap.
    """
    height, width = tissue.shape
    across = min(ACROSS_L0, 0.42 * width, 0.42 * height)
    first, second = _best_pair(_places(tissue, across), across)
    rng = stream(seed, "annotations")
    outlines = (
        _ragged_rectangle(rng, across, *_center(first)),
        _ellipse_with_hole(rng, across, *_center(second)),
    )
    return [
        Region(_uuid(rng), f"Demo region {letter}", "annotation", outline, REGION_CLASS.name)
        for letter, outline in zip("AB", outlines, strict=True)
    ]


def _places(tissue: np.ndarray, across: float) -> list[_Place]:
    """Return possible centres on a grid, each with the classes' shares of the core about it."""
    coarse = tissue[::STEP, ::STEP]
    codes = np.arange(int(coarse.max()) + 1)
    sums = np.cumsum(np.cumsum(coarse[..., None] == codes, axis=0), axis=1)
    sums = np.pad(sums, ((1, 0), (1, 0), (0, 0)))
    edge, core = int(np.ceil(across / 2 / STEP)), max(1, int(across * CORE / 2 / STEP))
    places = []
    for row in range(edge, coarse.shape[0] - edge + 1, 4):
        for col in range(edge, coarse.shape[1] - edge + 1, 4):
            top, bottom, left, right = row - core, row + core, col - core, col + core
            count = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
            places.append(_Place(row, col, count / count.sum()))
    return places


def _best_pair(places: list[_Place], across: float) -> tuple[_Place, _Place]:
    """Return the two places, apart from each other, that show most of every class."""
    apart = across * 1.03 / STEP
    rows, cols = np.array([p.row for p in places]), np.array([p.col for p in places])
    shares = np.stack([p.shares for p in places])
    best, pair = -1.0, (places[0], places[-1])
    for place in sorted(places, key=lambda p: -_worth(p.shares))[:40]:
        far = np.maximum(np.abs(rows - place.row), np.abs(cols - place.col)) >= apart
        if not far.any():
            continue
        worth = np.where(far, _worth((shares + place.shares) / 2) + 0.1 * _worth(shares), -1)
        index = int(np.argmax(worth))
        if worth[index] > best:
            best, pair = float(worth[index]), (place, places[index])
    return pair


def _worth(shares: np.ndarray) -> np.ndarray:
    return np.sqrt(np.minimum(shares, ENOUGH)).sum(axis=-1)


def _center(place: _Place) -> tuple[float, float]:
    return float(place.col * STEP), float(place.row * STEP)


def _ragged_rectangle(rng: np.random.Generator, across: float, x: float, y: float) -> Polygon:
    """Return a rectangle drawn by hand: corners and sides a little off."""
    sides = np.array([-1.0, -0.4, 0.3])
    square = [(s, -1.0) for s in sides] + [(1.0, s) for s in sides]
    square += [(-s, 1.0) for s in sides] + [(-1.0, -s) for s in sides]
    points = np.array(square) * (across / 2) * rng.uniform(0.9, 0.99, (len(square), 1))
    return _as_exported(Polygon(np.add(points, (x, y))))


def _ellipse_with_hole(rng: np.random.Generator, across: float, x: float, y: float) -> Polygon:
    disc = Point(0, 0).buffer(across / 2, quad_segs=24)
    ellipse = affinity.rotate(affinity.scale(disc, 0.99, rng.uniform(0.93, 0.97)), 90)
    angle = rng.uniform(0, 2 * np.pi)
    hole = Point(0.3 * across * np.cos(angle), 0.3 * across * np.sin(angle)).buffer(0.06 * across)
    return _as_exported(affinity.translate(ellipse.difference(hole), x, y))


def _as_exported(outline: Polygon) -> Polygon:
    """Return an outline with QuPath's precision, 0.01 px."""
    return set_precision(outline, 0.01)


def _uuid(rng: np.random.Generator) -> str:
    return str(UUID(bytes=rng.bytes(16), version=4))
