"""Which tiles an image's regions need, each once, and the bands in which they are done.

Islands are groups of tiles that share no pixel with those of another; they are swept one after the
other, so that what is held follows from the widest, not from the slide. A band is some rows of
tiles, of one island or several. It finishes the cells from `y_m + margin_m` of its first row to
there of the next band's first row, and of islands that end in it all, in every region alike. It can
be computed by itself: tiles further up that reach into it are computed along, in the very batches
in which their own band has them. So what a band holds does not depend on who computes it, nor on
what was computed before.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from shapely.geometry.base import BaseGeometry

from qupath_bridge.engine.islands import Part, parts_of
from qupath_bridge.tiles import Tile, TilePlan

BAND_TILES = 128
"""A band has at least so many tiles to compute, in whole rows: what a kill costs at most."""

IsGlass = Callable[[Sequence[Tile]], np.ndarray]


class Row(NamedTuple):
    """A row of tiles: its island's number and the y of its tiles; in this order rows are swept."""

    island: int
    y_m: int


@dataclass(frozen=True)
class Band:
    """Rows of tiles from `begin` to before `end`; `tiles` are those to compute."""

    index: int
    begin: Row
    end: Row
    tiles: range


@dataclass(frozen=True, slots=True)
class Batch:
    """Tiles of one band that are computed together; `first` is the first one's place."""

    band: int
    first: int
    tiles: tuple[Tile, ...]


class Sweep:
    """The tiles of all regions, sorted by island, y, then x, each with the parts that need it.

    parts: what each region has of each island; first_band, last_band: of each. tiles: those to
    compute; rows, owners: of each, the latter indices of parts. blanks, blank_rows, blank_owners:
    the same of bare glass. glass: bool, which of all tiles those are.
    """

    def __init__(
        self,
        plan: TilePlan,
        outlines_m: Sequence[BaseGeometry],
        is_glass: IsGlass | None = None,
        band_tiles: int | None = None,
    ) -> None:
        self.plan, self.outlines_m = plan, tuple(outlines_m)
        self.parts = parts_of(plan, outlines_m)
        needed = _needed(self.parts)
        every = [tile for _, tile, _ in needed]
        self.glass = is_glass(every) if is_glass and every else np.zeros(len(every), bool)
        self.rows, self.tiles, self.owners = _columns(needed, ~self.glass)
        self.blank_rows, self.blanks, self.blank_owners = _columns(needed, self.glass)
        self._all_rows = sorted({row for row, *_ in needed})
        self.bands = self._banded(band_tiles or BAND_TILES)
        self.first_band, self.last_band = self._bands_of_parts()

    @property
    def cuts(self) -> tuple[tuple[int, int, int], ...]:
        """Return island, y_m and number of tiles of each band: how the sweep is cut."""
        return tuple((*band.begin, len(band.tiles)) for band in self.bands)

    def lead_in(self, band: int) -> Row:
        """Return the first row of tiles that reach into a band, its own first row at the latest."""
        begin = self.bands[band].begin
        reach_m = begin.y_m + 2 * self.plan.margin_m - self.plan.tile_m
        return self._all_rows[bisect_right(self._all_rows, Row(begin.island, reach_m))]

    def batches(self, size: int, first: int, end: int) -> list[Batch]:
        """Return what is computed for the bands from `first` to before `end`, lead-in included.

        Within a band the batches are the same whatever bands are asked for.
        """
        lead_in = self.lead_in(first)
        found = []
        for band in self.bands[:end]:
            if band.end <= lead_in:
                continue
            for start in range(band.tiles.start, band.tiles.stop, size):
                stop = min(start + size, band.tiles.stop)
                if self.rows[stop - 1] >= lead_in:
                    found.append(Batch(band.index, start, tuple(self.tiles[start:stop])))
        return found

    def parts_in(self, band: int) -> list[int]:
        """Return the indices of the parts of which the band finishes rows."""
        spans = enumerate(zip(self.first_band, self.last_band, strict=True))
        return [part for part, (first, last) in spans if first <= band <= last]

    def blanks_in(self, begin: Row, end: Row) -> range:
        """Return the places of the blank tiles in rows from `begin` to before `end`."""
        return range(bisect_left(self.blank_rows, begin), bisect_left(self.blank_rows, end))

    def _banded(self, band_tiles: int) -> list[Band]:
        starts: list[tuple[Row, int]] = []  # a band's first row, place of its first tile
        place, room = 0, 0
        counts = Counter(self.rows)
        for row in self._all_rows:
            if room <= 0:
                starts.append((row, place))
                room = band_tiles
            place += counts[row]
            room -= counts[row]
        ends = [*starts[1:], (Row(self._all_rows[-1].island + 1, 0), place)] if starts else []
        return [
            Band(index, row, end_row, range(first, end))
            for index, ((row, first), (end_row, end)) in enumerate(zip(starts, ends, strict=True))
        ]

    def _bands_of_parts(self) -> tuple[list[int], list[int]]:
        """Return the first and the last band of each part."""
        starts = [band.begin for band in self.bands]
        first, last = (
            [bisect_right(starts, Row(part.island, part.tiles[end].y_m)) - 1 for part in self.parts]
            for end in (0, -1)
        )
        return first, last


def _needed(parts: Sequence[Part]) -> list[tuple[Row, Tile, tuple[int, ...]]]:
    """Return the tiles of all parts in order, each with its row and the indices of its parts."""
    owners: dict[Tile, tuple[int, ...]] = {}
    alike: dict[tuple[int, ...], tuple[int, ...]] = {}  # whole slides have many tiles of few owners
    rows: dict[Row, Row] = {}
    for index, part in enumerate(parts):
        for tile in part.tiles:
            of_tile = (*owners.get(tile, ()), index)
            owners[tile] = alike.setdefault(of_tile, of_tile)
    placed = []
    for tile, of_tile in owners.items():
        row = Row(parts[of_tile[0]].island, tile.y_m)
        placed.append((rows.setdefault(row, row), tile, of_tile))
    return sorted(placed, key=lambda one: (one[0], one[1].x_m))


def _columns(
    needed: Sequence[tuple[Row, Tile, tuple[int, ...]]], which: np.ndarray
) -> tuple[list[Row], list[Tile], list[tuple[int, ...]]]:
    """Return rows, tiles and owners of some."""
    chosen = [one for one, wanted in zip(needed, which, strict=True) if wanted]
    return [row for row, *_ in chosen], [tile for _, tile, _ in chosen], [o for *_, o in chosen]
