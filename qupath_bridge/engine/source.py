"""Tiles' pixels, decoded ahead: every stored pixel once, although tiles overlap.

The slide is read in blocks on a lattice of its own, and tiles are cut out of them. What a pixel
shows is what its block has there: the same for all tiles, regions and processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from qupath_bridge.errors import UndecodableError
from qupath_bridge.geometry import Scale
from qupath_bridge.overview import default_threads
from qupath_bridge.slide import Slide
from qupath_bridge.tiles import Tile

WIDTH_M, HEIGHT_M = 512, 256
"""Sides of a block in model pixels. Larger ones decode fewer stored tiles twice, which they share
with the next row of blocks; but up to three rows are held, 2 MB per 1000 px of tissue's width."""

AHEAD_BLOCKS = 32
"""Blocks decoded before the batch that needs them is next: 13 MB. Two rows of half-overlapping
tiles need a new row of blocks all at once; decoding goes on meanwhile."""

AHEAD_BATCHES = 256

Block = tuple[int, int]
"""Row and column of a block on the lattice."""


@dataclass(frozen=True)
class PixelBatch:
    """Some tiles' pixels, uint8 [B, tile_m, tile_m, 3]; white where a tile is undecodable."""

    tiles: Sequence[Tile]
    pixels: np.ndarray
    undecodable: frozenset[Tile]


@dataclass
class _Plan:
    """A batch to come: the blocks its tiles touch, and those of them that it is the first to."""

    tiles: Sequence[Tile]
    blocks: dict[Block, Future[np.ndarray | None]] = field(default_factory=dict)
    new: list[Future[np.ndarray | None]] = field(default_factory=list)


class _Live:
    """The blocks that tiles to come may need."""

    def __init__(self) -> None:
        self.blocks: dict[Block, Future[np.ndarray | None]] = {}
        self._y_m: int | None = None

    def go_to(self, y_m: int) -> None:
        """Forget the blocks above a row of tiles; all of them, where it begins another island."""
        if self._y_m is not None and y_m < self._y_m:
            self.blocks.clear()
        elif y_m != self._y_m:
            passed = [block for block in self.blocks if block[0] < y_m // HEIGHT_M]
            for block in passed:
                del self.blocks[block]
        self._y_m = y_m


class TileSource:
    """Reads a slide's tiles in threads; a context manager, which joins them.

    threads: how many decode, by default one for each core, at most 8.
    """

    def __init__(self, slide: Slide, scale: Scale, tile_m: int, threads: int | None = None) -> None:
        self._slide, self._scale, self._tile_m = slide, scale, tile_m
        self._decoders = ThreadPoolExecutor(threads or default_threads(), "decode")
        self._cutter = ThreadPoolExecutor(1, "cut")

    def read_ahead(self, batches: Iterable[Sequence[Tile]]) -> Iterator[PixelBatch]:
        """Yield the batches with their pixels, in order; the next is made while one is used.

        Tiles come island by island, sorted by (y, x) in each: a block is forgotten once a tile lies
        wholly below it, or above the tile before. So it is read once for an island in one call, and
        again in another.

        Raises:
            SlideError: the slide was removed or changed since it was opened.
        """
        coming: Future[PixelBatch] | None = None
        for plan in self._plans(batches):
            following = self._cutter.submit(self._cut, plan)
            if coming:
                yield coming.result()
            coming = following
        if coming:
            yield coming.result()

    def close(self) -> None:
        """Drop what is still to be read and wait for the threads to end."""
        self._decoders.shutdown(cancel_futures=True)
        self._cutter.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _plans(self, batches: Iterable[Sequence[Tile]]) -> Iterator[_Plan]:
        """Yield plans of batches, those after them being decoded within the bounds."""
        live = _Live()
        waiting: deque[_Plan] = deque()
        ahead = 0
        try:
            for tiles in batches:
                waiting.append(self._plan(tiles, live))
                ahead += len(waiting[-1].new)
                while ahead > AHEAD_BLOCKS or len(waiting) > AHEAD_BATCHES:
                    ahead -= len(waiting[0].new)
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:  # whoever used the batches has stopped
            for block in (block for plan in waiting for block in plan.new):
                block.cancel()

    def _plan(self, tiles: Sequence[Tile], live: _Live) -> _Plan:
        """Return a batch's plan, the blocks that are not `live` yet handed to the decoders."""
        plan = _Plan(tiles)
        for tile in tiles:
            live.go_to(tile.y_m)
            for block in self._blocks_of(tile):
                if block not in live.blocks:
                    live.blocks[block] = self._decoders.submit(self._read_block, block)
                    plan.new.append(live.blocks[block])
                plan.blocks[block] = live.blocks[block]
        return plan

    def _blocks_of(self, tile: Tile) -> Iterator[Block]:
        last = self._tile_m - 1
        for row in range(tile.y_m // HEIGHT_M, (tile.y_m + last) // HEIGHT_M + 1):
            for column in range(tile.x_m // WIDTH_M, (tile.x_m + last) // WIDTH_M + 1):
                yield row, column

    def _read_block(self, block: Block) -> np.ndarray | None:
        """Return a block's pixels, uint8 [HEIGHT_M, WIDTH_M, 3]; None where it is damaged."""
        return self._read(block[1] * WIDTH_M, block[0] * HEIGHT_M, WIDTH_M, HEIGHT_M)

    def _read(self, x_m: int, y_m: int, width_m: int, height_m: int) -> np.ndarray | None:
        try:
            box = self._scale.box_l0(x_m, y_m, width_m, height_m)
            return self._slide.read(box, width_m, height_m)
        except UndecodableError:
            self._slide.check_unchanged()  # or else the whole file is gone, not a part damaged
            return None

    def _cut(self, plan: _Plan) -> PixelBatch:
        side = self._tile_m
        pixels = np.empty((len(plan.tiles), side, side, 3), np.uint8)
        undecodable = frozenset(
            tile
            for tile, out in zip(plan.tiles, pixels, strict=True)
            if not self._fill(out, tile, plan)
        )
        self._slide.check_unchanged()
        return PixelBatch(plan.tiles, pixels, undecodable)

    def _fill(self, out: np.ndarray, tile: Tile, plan: _Plan) -> bool:
        """Fill in a tile's pixels; white where it cannot be decoded, and say so by False."""
        for block in self._blocks_of(tile):
            pixels = plan.blocks[block].result()
            if pixels is None:  # perhaps only a part of it that this tile has nothing of
                alone = self._read(tile.x_m, tile.y_m, self._tile_m, self._tile_m)
                out[...] = 255 if alone is None else alone
                return alone is not None
            _paste(pixels, block, tile, out)
        return True


def _paste(pixels: np.ndarray, block: Block, tile: Tile, out: np.ndarray) -> None:
    """Copy what a tile has of a block."""
    top, left = block[0] * HEIGHT_M - tile.y_m, block[1] * WIDTH_M - tile.x_m
    side = len(out)
    rows = slice(max(top, 0), min(top + HEIGHT_M, side))
    columns = slice(max(left, 0), min(left + WIDTH_M, side))
    out[rows, columns] = pixels[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]
