"""Scores of tiles -> bands of the class maps of all regions and heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from model import HeadClass
from qupath_bridge.classmap import NODATA, ClassMap
from qupath_bridge.engine.sweep import Row, Sweep
from qupath_bridge.fusion import Fuser


@dataclass
class FusedBand:
    """What a band finishes: rows of the class map of each part (by index) and head, from the top.

    undecodable: tiles of the band whose pixels could not be decoded; they have no scores.
    """

    maps: dict[tuple[int, str], list[ClassMap]] = field(default_factory=dict)
    undecodable: int = 0


class BandFuser:
    """Blends the tiles of a sweep, from one of its bands on, for all parts and heads.

    classes: those of each head. Tiles come sorted, those that lead in included.
    """

    def __init__(
        self, sweep: Sweep, classes: Mapping[str, Sequence[HeadClass]], begin: int
    ) -> None:
        self._sweep, self._classes, self._begin = sweep, classes, begin
        self._blank_codes = {head: blank_code(kinds) for head, kinds in classes.items()}
        self._fusers: dict[tuple[int, str], Fuser] = {}
        self._lead_in = sweep.lead_in(begin)
        blanks = sweep.blanks_in(self._lead_in, sweep.bands[-1].end)
        self._next_blank, self._end_blank = blanks.start, blanks.stop

    def add(self, place: int, scores: Mapping[str, np.ndarray]) -> None:
        """Take in a tile by its place in the sweep; scores: float32 [K, h, w] of each head."""
        row, tile = self._sweep.rows[place], self._sweep.tiles[place]
        if row < self._lead_in:
            return  # it was only computed because its batch has a tile that leads in
        self._add_blanks(row)
        for part in self._sweep.owners[place]:
            for head in self._classes:
                self._fuser(part, head).add(tile, scores[head])

    def finish(self, band: int, undecodable: int = 0) -> FusedBand:
        """Return what a band finishes; all its tiles were taken in, and bands go in order."""
        end = self._sweep.bands[band].end
        self._add_blanks(Row(end.island, end.y_m - 1))
        found = FusedBand(undecodable=undecodable)
        for part in self._sweep.parts_in(band):
            for head in self._classes:
                is_last = self._sweep.last_band[part] == band
                found.maps[part, head] = self._finished(part, head, end.y_m, is_last)
        return found

    def _finished(self, part: int, head: str, end_y_m: int, is_last: bool) -> list[ClassMap]:
        """Return finished rows; a part that goes on in the next band does so at end_y_m."""
        fuser = self._fuser(part, head)
        if is_last:
            del self._fusers[part, head]
            return fuser.last_bands()
        fuser.finish_before(end_y_m)
        return fuser.bands()

    def _add_blanks(self, row: Row) -> None:
        """Take in the blank tiles down to a row."""
        sweep = self._sweep
        while self._next_blank < self._end_blank and sweep.blank_rows[self._next_blank] <= row:
            tile, owners = sweep.blanks[self._next_blank], sweep.blank_owners[self._next_blank]
            for part in owners:
                for head, code in self._blank_codes.items():
                    if code != NODATA:
                        self._fuser(part, head).add_blank(tile)
            self._next_blank += 1

    def _fuser(self, part: int, head: str) -> Fuser:
        known = self._fusers.get((part, head))
        if known is None:
            sweep, begin = self._sweep, self._begin
            began_above = sweep.first_band[part] < begin
            known = self._fusers[part, head] = Fuser(
                sweep.plan,
                sweep.parts[part].outline_m,
                len(self._classes[head]),
                begin_y_m=sweep.bands[begin].begin.y_m if began_above else None,
                blank_code=self._blank_codes[head],
            )
        return known


def blank_code(classes: Sequence[HeadClass]) -> int:
    """Return the code of what is bare glass to a head: its first class that makes no objects."""
    return next((code for code, kind in enumerate(classes) if not kind.detections), NODATA)


def is_bare(rows: ClassMap) -> bool:
    """Return whether rows hold nothing, and take no memory."""
    return rows.codes.strides == (0, 0) and rows.codes.size > 0 and rows.codes.flat[0] == NODATA
