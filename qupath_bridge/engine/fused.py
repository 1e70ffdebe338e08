"""Scores of tiles -> bands of the class maps of all regions and heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from model import HeadClass
from qupath_bridge.classmap import NODATA, ClassMap
from qupath_bridge.engine.sweep import Sweep
from qupath_bridge.fusion import Fuser

STEPS = 65535
"""Probabilities are kept as whole numbers of 1/65535, so that a file of them is half as large."""


@dataclass
class FusedBand:
    """What a band finishes: rows of the class map of each region (by index) and head, from the top.

    undecodable: tiles of the band whose pixels could not be decoded; they have no scores.
    """

    maps: dict[tuple[int, str], list[ClassMap]] = field(default_factory=dict)
    undecodable: int = 0


class BandFuser:
    """Blends the tiles of a sweep, from one of its bands on, for all regions and heads.

    classes: those of each head. Tiles come sorted, those that lead in included.
    """

    def __init__(
        self, sweep: Sweep, classes: Mapping[str, Sequence[HeadClass]], begin: int
    ) -> None:
        self._sweep, self._classes, self._begin = sweep, classes, begin
        self._blank_codes = {head: blank_code(kinds) for head, kinds in classes.items()}
        self._fusers: dict[tuple[int, str], Fuser] = {}
        self._lead_in_m = sweep.lead_in_m(begin)
        blanks = sweep.blanks_in(self._lead_in_m, sweep.bands[-1].end_y_m)
        self._next_blank, self._end_blank = blanks.start, blanks.stop

    def add(self, place: int, scores: Mapping[str, np.ndarray]) -> None:
        """Take in a tile by its place in the sweep; scores: float32 [K, h, w] of each head."""
        tile = self._sweep.tiles[place]
        if tile.y_m < self._lead_in_m:
            return  # it was only computed because its batch has a tile that leads in
        self._add_blanks(tile.y_m)
        for region in self._sweep.owners[place]:
            for head in self._classes:
                self._fuser(region, head).add(tile, scores[head])

    def finish(self, band: int, undecodable: int = 0) -> FusedBand:
        """Return what a band finishes; all its tiles were taken in, and bands go in order."""
        end_y_m = self._sweep.bands[band].end_y_m
        self._add_blanks(end_y_m - 1)
        found = FusedBand(undecodable=undecodable)
        for region in self._sweep.regions_in(band):
            for head in self._classes:
                rows = self._finished(region, head, end_y_m, self._sweep.last_band[region] == band)
                found.maps[region, head] = list(map(_settled, rows))
        return found

    def _finished(self, region: int, head: str, end_y_m: int, is_last: bool) -> list[ClassMap]:
        fuser = self._fuser(region, head)
        if is_last:
            del self._fusers[region, head]
            return fuser.last_bands()
        fuser.finish_before(end_y_m)
        return fuser.bands()

    def _add_blanks(self, y_m: int) -> None:
        """Take in the blank tiles down to the row at y_m."""
        for place in self._blanks_to(y_m):
            tile = self._sweep.blanks[place]
            for region in self._sweep.blank_owners[place]:
                for head, code in self._blank_codes.items():
                    if code != NODATA:
                        self._fuser(region, head).add_blank(tile)

    def _blanks_to(self, y_m: int) -> Iterator[int]:
        blanks = self._sweep.blanks
        while self._next_blank < self._end_blank and blanks[self._next_blank].y_m <= y_m:
            yield self._next_blank
            self._next_blank += 1

    def _fuser(self, region: int, head: str) -> Fuser:
        known = self._fusers.get((region, head))
        if known is None:
            sweep, begin = self._sweep, self._begin
            began_above = sweep.first_band[region] < begin
            known = self._fusers[region, head] = Fuser(
                sweep.plan,
                sweep.outlines_m[region],
                len(self._classes[head]),
                begin_y_m=sweep.bands[begin].y_m if began_above else None,
                blank_code=self._blank_codes[head],
            )
        return known


def blank_code(classes: Sequence[HeadClass]) -> int:
    """Return the code of what is bare glass to a head: its first class that makes no objects."""
    return next((code for code, kind in enumerate(classes) if not kind.detections), NODATA)


def steps_of(probability: np.ndarray) -> np.ndarray:
    """Return probabilities in steps, uint16."""
    return np.rint(probability * np.float32(STEPS)).astype(np.uint16)


def of_steps(steps: np.ndarray) -> np.ndarray:
    """Return probabilities of steps, float32."""
    return steps.astype(np.float32) / np.float32(STEPS)


def is_bare(rows: ClassMap) -> bool:
    """Return whether rows hold nothing, and take no memory."""
    return rows.codes.strides == (0, 0) and rows.codes.size > 0 and rows.codes.flat[0] == NODATA


def _settled(rows: ClassMap) -> ClassMap:
    """Return rows as a file would give them back."""
    return (
        rows if is_bare(rows) else replace(rows, probability=of_steps(steps_of(rows.probability)))
    )
