"""Components, strip by strip -> outlines that share their borders.

Borders between two classes run through the middles of cell sides, which turns the staircase of a
slanted border into a straight line without taking area from either side. Corners where more than
two pieces meet stay where they are, and so do borders with `NODATA`. Both sides of a border get
the very same points: together the outlines are a coverage, without gaps or overlaps.

Where a border passes from one strip to the next, simplifying leaves a point that it might have
given up: so each strip is simplified by itself, once and for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import shapely

from qupath_bridge.classmap import NODATA
from qupath_bridge.components import Absorbed
from qupath_bridge.joined import JoinedObjects
from qupath_bridge.pieces import pieces_of
from qupath_bridge.rim import IdStrip
from qupath_bridge.rings import Assembly
from qupath_bridge.simplify import simplified
from qupath_bridge.wanted import check_wanted


@dataclass(frozen=True)
class Outlined:
    """Objects whose outlines are complete, one per connected component, with their holes.

    polygons: in cells. codes: uint8 [N]. means: float64 [L, N], of what was measured.
    """

    polygons: np.ndarray
    codes: np.ndarray
    means: np.ndarray


def outlined(
    strips: Iterable[IdStrip], absorbed: Absorbed, tolerance_cells: float
) -> Iterator[Outlined]:
    """Yield the objects of a map's strips, from the top, as soon as their last row came.

    Components are 4-connected; `NODATA` has none. Borders are simplified by giving up corners
    whose triangle is smaller than the square of the tolerance.
    """
    objects = JoinedObjects(absorbed)
    assembly = Assembly(objects)
    codes = np.append(absorbed.codes, np.uint8(NODATA))  # of -1
    for strip in strips:
        check_wanted()
        pieces = simplified(pieces_of(strip, codes), tolerance_cells)
        polygons, found = assembly.add(strip, pieces)
        if len(found):
            polygons = shapely.transform(polygons, lambda halves: halves / 2)
            yield Outlined(polygons, absorbed.codes[found], objects.means(found))
