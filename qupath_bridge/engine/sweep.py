"""Which tiles an image's regions need, each once, and the bands in which they are done.

A band is some rows of tiles. It finishes the cells from `y_m + margin_m` of its first row to there
of the next band's first row, in every region alike, and can be computed by itself: tiles further up
that reach into it are computed along, in the very batches in which their own band has them. So
what a band holds does not depend on who computes it, nor on what was computed before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from shapely.geometry.base import BaseGeometry

from qupath_bridge.tiles import Tile, TilePlan, tiles_of

BAND_TILES = 128
"""A band has at least so many tiles to compute, in whole rows: what a kill costs at most."""

IsGlass = Callable[[Sequence[Tile]], np.ndarray]


@dataclass(frozen=True)
class Band:
    """Rows of tiles from y_m to before end_y_m; `tiles` are those to compute."""

    index: int
    y_m: int
    end_y_m: int
    tiles: range


@dataclass(frozen=True)
class Batch:
    """Tiles of one band that are computed together; `first` is the first one's place."""

    band: int
    first: int
    tiles: tuple[Tile, ...]


class Sweep:
    """The tiles of all regions, sorted by y, then x, each with the regions that need it.

    tiles: those to compute. blanks: those of bare glass. owners, blank_owners: the indices of
    each one's regions.
    """

    def __init__(
        self,
        plan: TilePlan,
        outlines_m: Sequence[BaseGeometry],
        is_glass: IsGlass | None = None,
        band_tiles: int | None = None,
    ) -> None:
        self.plan, self.outlines_m = plan, tuple(outlines_m)
        owners = _owners(plan, outlines_m)
        every = sorted(owners, key=lambda tile: (tile.y_m, tile.x_m))
        glass = np.zeros(len(every), bool) if is_glass is None or not every else is_glass(every)
        self.tiles = [tile for tile, bare in zip(every, glass, strict=True) if not bare]
        self.blanks = [tile for tile, bare in zip(every, glass, strict=True) if bare]
        self.owners = [tuple(owners[tile]) for tile in self.tiles]
        self.blank_owners = [tuple(owners[tile]) for tile in self.blanks]
        self._rows = _rows_of(every)
        self.bands = self._banded(band_tiles or BAND_TILES)
        self.first_band, self.last_band = self._bands_of_regions(every, owners)

    @property
    def cuts(self) -> tuple[tuple[int, int], ...]:
        """Return y_m and number of tiles of each band: how the sweep is cut."""
        return tuple((band.y_m, len(band.tiles)) for band in self.bands)

    def lead_in_m(self, band: int) -> int:
        """Return the y of the first row of tiles that reach into a band."""
        reach = self.bands[band].y_m + 2 * self.plan.margin_m - self.plan.tile_m
        return next(y for y in self._rows if y > reach)

    def batches(self, size: int, first: int, end: int) -> list[Batch]:
        """Return what is computed for the bands from `first` to before `end`, lead-in included.

        Within a band the batches are the same whatever bands are asked for.
        """
        lead_in_m = self.lead_in_m(first)
        found = []
        for band in self.bands[:end]:
            if band.end_y_m <= lead_in_m:
                continue
            for start in range(band.tiles.start, band.tiles.stop, size):
                tiles = tuple(self.tiles[start : min(start + size, band.tiles.stop)])
                if tiles[-1].y_m >= lead_in_m:
                    found.append(Batch(band.index, start, tiles))
        return found

    def regions_in(self, band: int) -> list[int]:
        """Return the indices of the regions of which the band finishes rows."""
        return [
            region
            for region, (first, last) in enumerate(
                zip(self.first_band, self.last_band, strict=True)
            )
            if first <= band <= last
        ]

    def blanks_in(self, begin_y_m: int, end_y_m: int) -> range:
        """Return the places of the blank tiles in rows from begin_y_m to before end_y_m."""
        begin, end = (
            bisect_left(self.blanks, y, key=lambda tile: tile.y_m) for y in (begin_y_m, end_y_m)
        )
        return range(begin, end)

    def _banded(self, band_tiles: int) -> list[Band]:
        starts: list[tuple[int, int]] = []  # y of a band's first row, place of its first tile
        place, room = 0, 0
        counts = {y: len(list(tiles)) for y, tiles in groupby(self.tiles, lambda t: t.y_m)}
        for y in self._rows:
            if room <= 0:
                starts.append((y, place))
                room = band_tiles
            place += counts.get(y, 0)
            room -= counts.get(y, 0)
        ends = [*starts[1:], (self._rows[-1] + self.plan.stride_m, place)] if starts else []
        return [
            Band(index, y, end_y, range(first, end))
            for index, ((y, first), (end_y, end)) in enumerate(zip(starts, ends, strict=True))
        ]

    def _bands_of_regions(
        self, every: Sequence[Tile], owners: dict[Tile, list[int]]
    ) -> tuple[list[int], list[int]]:
        """Return the first and the last band of each region; (1, 0) for one without tiles."""
        first, last = [1] * len(self.outlines_m), [0] * len(self.outlines_m)
        known: set[int] = set()
        starts = [band.y_m for band in self.bands]
        band = -1
        for tile in every:
            while band + 1 < len(starts) and tile.y_m >= starts[band + 1]:
                band += 1
            for region in owners[tile]:
                if region not in known:
                    known.add(region)
                    first[region] = band
                last[region] = band
        return first, last


def _owners(plan: TilePlan, outlines_m: Sequence[BaseGeometry]) -> dict[Tile, list[int]]:
    owners: dict[Tile, list[int]] = defaultdict(list)
    for region, outline_m in enumerate(outlines_m):
        for tile in tiles_of(outline_m, plan):
            owners[tile].append(region)
    return owners


def _rows_of(tiles: Sequence[Tile]) -> list[int]:
    return [y for y, _ in groupby(tile.y_m for tile in tiles)]
