"""Whole glands from a head that knows a gland's inside and its border.

Glands grow from their insides until they meet, wherever that is, so this takes the whole map of a
region: 7 bytes a cell, and more while they grow. Other heads are traced in bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from model import HeadClass
from qupath_bridge.classmap import NODATA, ClassMap
from qupath_bridge.errors import TilingError

GLAND, BORDER = "Gland", "Gland border"


def has_borders(classes: Sequence[HeadClass]) -> bool:
    """Return whether a head tells glands from their borders."""
    return {GLAND, BORDER} <= {c.name for c in classes}


def with_whole_glands(
    class_map: ClassMap, classes: Sequence[HeadClass], cell_um: float, min_object_um2: float
) -> tuple[ClassMap, list[int]]:
    """Return a map in which each gland has its border and touches no gland of its own code.

    With it comes the class of each code: codes beyond the classes are glands too, so that two
    that touch are traced as two. Glands below `min_object_um2` become the first class that makes
    no objects (background).
    """
    from model.instances import GlandReading, glands_of_codes  # only here: it loads scikit-image

    names = [c.name for c in classes]
    gland, border = names.index(GLAND), names.index(BORDER)
    silent = [i for i, c in enumerate(classes) if not c.detections and i != border]
    reading = GlandReading(cell_um, gland, border, min_object_um2)
    glands = glands_of_codes(class_map.codes, reading)
    colors = _colors(glands)
    # The first color is the class's own code, further ones are codes beyond the classes.
    codes_of_glands = [gland, *range(len(classes), len(classes) + int(colors.max(initial=0)))]
    if codes_of_glands[-1] >= NODATA:
        raise TilingError("too many glands touch one another to tell them apart")
    codes = class_map.codes.copy()
    codes[np.isin(codes, (gland, border))] = silent[0] if silent else gland
    whole = (glands > 0) & (class_map.codes != NODATA)
    codes[whole] = np.array(codes_of_glands, np.uint8)[colors[glands[whole]]]
    beyond = [gland] * (len(codes_of_glands) - 1)
    return replace(class_map, codes=codes), [*range(len(classes)), *beyond]


def _colors(glands: np.ndarray) -> np.ndarray:
    """Return a color for each gland id, int [N + 1], from 0; no two that touch share one."""
    neighbours: dict[int, set[int]] = {}
    for one, other in _touching(glands):
        neighbours.setdefault(one, set()).add(other)
        neighbours.setdefault(other, set()).add(one)
    colors = np.zeros(int(glands.max(initial=0)) + 1, np.int64)
    for gland in sorted(neighbours):
        taken = {int(colors[n]) for n in neighbours[gland] if n < gland}
        colors[gland] = next(c for c in range(len(taken) + 1) if c not in taken)
    return colors


def _touching(glands: np.ndarray) -> list[tuple[int, int]]:
    """Return each pair of ids whose cells touch, across corners too, once."""
    views = (
        (glands[:, :-1], glands[:, 1:]),
        (glands[:-1], glands[1:]),
        (glands[:-1, :-1], glands[1:, 1:]),
        (glands[:-1, 1:], glands[1:, :-1]),
    )
    pairs = [
        np.stack([a[touch], b[touch]], axis=1)
        for a, b in views
        for touch in [(a != b) & (a > 0) & (b > 0)]
    ]
    found = np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)
    return [(int(a), int(b)) for a, b in found]
