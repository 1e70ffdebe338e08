"""Regions -> islands: groups of their tiles that share no pixel, and what each region has of them.

What lies in different islands can be computed, fused and traced apart: no tile reaches from one
into another, and no object either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import shapely
from scipy import ndimage
from shapely.geometry.base import BaseGeometry

from qupath_bridge.tiles import Tile, TilePlan, tiles_of

CORNERS_TOO = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Part:
    """What a region has of an island.

    region: its index. outline_m: of this part alone. tiles: those it needs, by y, then x.
    """

    region: int
    island: int
    outline_m: BaseGeometry
    tiles: list[Tile]


def parts_of(plan: TilePlan, outlines_m: Sequence[BaseGeometry]) -> list[Part]:
    """Return the parts of regions by island, then region; islands come from the top left."""
    pieces = list(_pieces(plan, outlines_m))
    islands = _islands([piece.tiles for piece in pieces], plan.tile_m)
    together: dict[tuple[int, int], list[_Piece]] = defaultdict(list)
    for island, piece in zip(islands, pieces, strict=True):
        together[island, piece.region].append(piece)
    return [
        Part(region, island, _united(members), _merged(members))
        for (island, region), members in sorted(together.items(), key=lambda one: one[0])
    ]


class _Piece(NamedTuple):
    """One polygon of a region that has tiles."""

    region: int
    outline_m: BaseGeometry
    tiles: list[Tile]


def _pieces(plan: TilePlan, outlines_m: Sequence[BaseGeometry]) -> Iterator[_Piece]:
    for region, outline_m in enumerate(outlines_m):
        for piece in shapely.get_parts(outline_m):
            if tiles := tiles_of(piece, plan):
                yield _Piece(region, piece, tiles)


def _islands(tiles: Sequence[list[Tile]], tile_m: int) -> list[int]:
    """Return the island of each group of tiles that hang together, numbered as they come by y, x.

    Squares of the side of a tile stand for the tiles that begin in them: tiles whose squares do
    not even touch at a corner share nothing. Some that share nothing may be of one island.
    """
    if not tiles:
        return []
    squares = [np.unique(np.array(group) // tile_m, axis=0) for group in tiles]
    corner = np.min([group.min(0) for group in squares], axis=0)
    size = np.max([group.max(0) for group in squares], axis=0) - corner + 1
    taken = np.zeros(size[::-1], bool)
    for group in squares:
        taken[tuple((group - corner).T[::-1])] = True
    labels, _ = ndimage.label(taken, CORNERS_TOO)
    of_group = [int(labels[tuple((group[0] - corner)[::-1])]) for group in squares]
    first: dict[int, Tile] = {}
    for label, (top_left, *_) in zip(of_group, tiles, strict=True):
        first[label] = min(first.get(label, top_left), top_left, key=_by_row)
    order = {label: n for n, label in enumerate(sorted(first, key=lambda k: _by_row(first[k])))}
    return [order[label] for label in of_group]


def _united(pieces: Sequence[_Piece]) -> BaseGeometry:
    outlines_m = [piece.outline_m for piece in pieces]
    return outlines_m[0] if len(outlines_m) == 1 else shapely.multipolygons(outlines_m)


def _merged(pieces: Sequence[_Piece]) -> list[Tile]:
    return sorted({tile for piece in pieces for tile in piece.tiles}, key=_by_row)


def _by_row(tile: Tile) -> tuple[int, int]:
    return tile.y_m, tile.x_m
