"""Overlapping tiles' class probabilities -> the class map of a region, band by band."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from shapely.geometry.base import BaseGeometry

from qupath_bridge.blending import BlendedBlock, Cells, blend_window
from qupath_bridge.classmap import NODATA, ClassMap, MapFrame, no_cells, stacked
from qupath_bridge.errors import TilingError
from qupath_bridge.tiles import Tile, TilePlan

BLOCK = 1024  # columns of cells that are held together: two islands of tissue cost two islands


class Fuser:
    """Blends the tiles of one region, row of tiles by row of tiles, into bands of a class map.

    Scores are held for one row of tiles only, and only around its tiles; the rows of the map that
    no later tile can touch only until they are taken. Tiles come sorted by y, then x, and are
    summed in that order: the same tiles give the same map, bit for bit.

    begin_y_m: top of the tile row at which a part of the map begins: the rows of cells above
    `begin_y_m + margin_m` are in no band. The part is that of the whole map, bit for bit, where
    all tile rows are taken in whose insides reach into it. None: the map's top. blank_code: of the
    cells of blank tiles.
    """

    def __init__(
        self,
        plan: TilePlan,
        outline_m: BaseGeometry,
        class_count: int,
        begin_y_m: int | None = None,
        blank_code: int = NODATA,
    ) -> None:
        if not 1 <= class_count < NODATA:
            raise TilingError(f"a class map holds 1 to {NODATA - 1} classes, not {class_count}")
        self.frame = MapFrame.around(outline_m, plan.cell_m)
        self._plan, self._class_count, self._blank_code = plan, class_count, blank_code
        margin = plan.margin_cells
        self._inside = slice(margin, plan.tile_cells - margin)
        self._window = blend_window(plan.tile_cells, margin)[self._inside, self._inside].copy()
        self._blocks: dict[int, BlendedBlock] = {}  # by their place from the left
        self._top: int | None = None  # row of the map where the held scores begin
        self._y_m: int | None = None
        self._x_m: float = -math.inf
        # Used again and again: fresh memory costs more than the product.
        self._weighted = np.empty((class_count + 1, *self._window.shape), np.float32)
        self._weighted[-1] = self._window
        self._bands: list[ClassMap] = []
        self._least_y_m: int | None = None  # tiles above it come too late
        # Rows of the map that are in bands, taken or not, or above the part.
        self._finished = 0 if begin_y_m is None else self._row_of(begin_y_m)

    def add(self, tile: Tile, probabilities: np.ndarray) -> None:
        """Take in one tile's class probabilities, float32 [K, h, w] over its cells.

        Raises:
            TilingError: the tile comes too late, or its scores have another shape.
        """
        expected = (self._class_count, self._plan.tile_cells, self._plan.tile_cells)
        if probabilities.shape != expected:
            raise TilingError(
                f"the scores of a tile have shape {probabilities.shape}, expected {expected}"
            )
        if tile.y_m == self._y_m and tile.x_m <= self._x_m:
            raise TilingError(f"tile {tuple(tile)} came after x {self._x_m}; sort tiles by y, x")
        self._go_to_row(tile)
        self._x_m = tile.x_m
        inside = probabilities[:, self._inside, self._inside]
        np.multiply(self._window, inside, out=self._weighted[:-1])
        for block, held, part in self._touched(tile.x_m):
            block.add(held.start, held.stop, self._weighted[:, :, part])

    def add_blank(self, tile: Tile) -> None:
        """Take in a tile of bare glass, which was not computed.

        Its inside's cells have the blank code, probability 1 and entropy 0 where no computed tile
        has a say; where that code is `NODATA`, they are as if the tile was not there.

        Raises:
            TilingError: the tile belongs to an earlier row.
        """
        self._go_to_row(tile)
        if self._blank_code != NODATA:
            for block, held, _ in self._touched(tile.x_m):
                block.add_blank(held.start, held.stop)

    def finish_before(self, y_m: int) -> None:
        """Finish the rows of cells above `y_m + margin_m`; tiles above `y_m` must not follow."""
        self._emit_to(self._cells_from(y_m, self.frame.y_m))
        self._skip_to(self._row_of(y_m))
        self._least_y_m = max(y_m, self._least_y_m or y_m)

    def bands(self) -> list[ClassMap]:
        """Return the bands finished since last asked; one after another they make up the map."""
        finished, self._bands = self._bands, []
        return finished

    def last_bands(self) -> list[ClassMap]:
        """Return the bands not taken yet, to the map's last row; no more tiles may follow."""
        if self._top is not None:
            self._emit_to(self._top + len(self._window))
        self._skip_to(self.frame.height)
        return self.bands()

    def class_map(self) -> ClassMap:
        """Return the map of all tiles taken in; for who takes no bands. No more may follow."""
        return stacked(self.last_bands())

    def _go_to_row(self, tile: Tile) -> None:
        rows = [y for y in (self._y_m, self._least_y_m) if y is not None]
        if rows and tile.y_m < max(rows):
            raise TilingError(f"tile {tuple(tile)} came after row {max(rows)}; sort tiles by y")
        if tile.y_m != self._y_m:
            self._y_m, self._x_m = tile.y_m, -math.inf
            top = self._cells_from(tile.y_m, self.frame.y_m)
            self._emit_to(top)
            self._top = top

    def _touched(self, x_m: int) -> Iterator[tuple[BlendedBlock, slice, slice]]:
        """Yield the blocks that a tile's inside lies in, its columns there and its own columns."""
        left = self._cells_from(x_m, self.frame.x_m)
        begin, end = max(left, 0), min(left + len(self._window), self.frame.width)
        while begin < end:
            place, within = divmod(begin, BLOCK)
            width = min(BLOCK, self.frame.width - place * BLOCK)
            count = min(end - begin, width - within)
            if place not in self._blocks:
                shape = (self._class_count, len(self._window), width)
                self._blocks[place] = BlendedBlock(*shape)
            yield (
                self._blocks[place],
                slice(within, within + count),
                slice(begin - left, begin - left + count),
            )
            begin += count

    def _emit_to(self, row: int) -> None:
        """Make a band of the held rows above a row of the map, and room for as many."""
        if self._top is None or row <= self._top:
            return
        count = min(row - self._top, len(self._window))
        begin, end = max(self._top, self._finished), min(self._top + count, self.frame.height)
        if begin < end and self._blocks:
            self._skip_to(begin)
            cells = Cells.nothing(end - begin, self.frame.width)
            for place, block in self._blocks.items():
                columns = cells.columns(place * BLOCK, (place + 1) * BLOCK)
                block.fill(columns, begin - self._top, self._blank_code)
            self._append(cells)
        for block in self._blocks.values():
            block.drop(count)
        self._blocks = {place: block for place, block in self._blocks.items() if block.used}
        self._top += count

    def _skip_to(self, row: int) -> None:
        """Append a band without data down to a row; it takes no memory."""
        if row > self._finished:
            shape = (row - self._finished, self.frame.width)
            self._append(Cells(*no_cells(shape)))

    def _append(self, cells: Cells) -> None:
        cell_m, x_m = self.frame.cell_m, self.frame.x_m
        y_m = self.frame.y_m + self._finished * cell_m
        band = ClassMap(cells.codes, cells.probability, cells.entropy, x_m, y_m, cell_m)
        self._bands.append(band)
        self._finished += len(cells.codes)

    def _row_of(self, y_m: int) -> int:
        """Return the row of the map, 0..height, where the insides of a tile row begin."""
        return min(max(self._cells_from(y_m, self.frame.y_m), 0), self.frame.height)

    def _cells_from(self, tile_start_m: int, map_start_m: int) -> int:
        return (tile_start_m + self._plan.margin_m - map_start_m) // self._plan.cell_m
