"""Whole glands from a head that knows a gland's inside and its border.

Glands grow from their insides until they meet. They do so within what hangs together of gland and
border, each such sheet by itself, so rows of a class map are held only until all sheets that begin
in them are complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from model import HeadClass
from qupath_bridge.classmap import NODATA, ClassMap
from qupath_bridge.errors import TilingError
from qupath_bridge.sheets import colors_of, complete_rows, row_of_least, sheets_of

GLAND, BORDER = "Gland", "Gland border"
STEP_CELLS = 2**21  # sheets are looked for each time so many cells have come
HELD_CELLS = 2**24  # 1.4 GiB at most while one sheet of so many cells is made whole


def has_borders(classes: Sequence[HeadClass]) -> bool:
    """Return whether a head tells glands from their borders."""
    return {GLAND, BORDER} <= {c.name for c in classes}


@dataclass(frozen=True)
class GlandClasses:
    """The codes of a head's classes that glands are made of, and of which they become.

    silent: the class of gland and border that is no whole gland. count: of classes; codes from it
    on are glands too, so that two that touch are traced as two.
    """

    gland: int
    border: int
    silent: int
    count: int

    @classmethod
    def of(cls, classes: Sequence[HeadClass]) -> GlandClasses:
        """Return those of a head with borders; silent is its first class without objects."""
        names = [c.name for c in classes]
        gland, border = names.index(GLAND), names.index(BORDER)
        silent = [i for i, c in enumerate(classes) if not c.detections and i != border]
        return cls(gland, border, silent[0] if silent else gland, len(classes))

    def code_of(self, colors: np.ndarray) -> np.ndarray:
        """Return the code of each color, uint8: the first is the class's own."""
        codes = np.where(colors == 0, self.gland, self.count - 1 + colors)
        if codes.max(initial=0) >= NODATA:
            raise TilingError("too many glands touch one another to tell them apart")
        return codes.astype(np.uint8)

    def class_of(self, code: int) -> int:
        """Return the class of a code."""
        return self.gland if code >= self.count else code


class GlandBands:
    """Bands of a class map, from the top -> bands in which each gland has its border.

    Glands touch none of their own code. Those below `min_object_um2` become the silent class. The
    bands may have any height: the map that comes out is the same. Rows are held until no sheet of
    gland and border that begins in them goes on below. Where such a sheet does not end and more
    than `HELD_CELLS` cells are held, all are cut in two at that row of their lower half where the
    fewest cells hang together: glands across it are cut, and of two parts that meet there with
    one code the tracer makes one object.
    """

    def __init__(self, classes: Sequence[HeadClass], cell_um: float, min_object_um2: float) -> None:
        from model.instances import GlandReading  # only here: it loads scikit-image

        self._classes = kinds = GlandClasses.of(classes)
        self._reading = GlandReading(cell_um, kinds.gland, kinds.border, min_object_um2)
        self._held: deque[ClassMap] = deque()  # their codes are in `_codes`
        self._codes: list[np.ndarray] = []  # of the held rows; whole glands are in the first
        self._pending: list[np.ndarray] = []  # their cells of gland and border not yet whole
        self._rows = 0  # that were held after sheets were last looked for
        self._coming = 0  # that came since

    def add(self, band: ClassMap) -> Iterator[ClassMap]:
        """Yield the rows that are finished now."""
        begin, step = 0, max(1, STEP_CELLS // band.codes.shape[1])
        while begin < len(band.codes):
            part = band.rows(begin, begin + step - self._coming % step)
            self._held.append(part)
            self._codes.append(part.codes)
            self._pending.append(np.isin(part.codes, self._reading.channels))
            self._coming += len(part.codes)
            begin += len(part.codes)
            if self._coming % step == 0 and self._is_time(part.codes.shape[1]):
                yield from self._finish(is_last=False)

    def last(self) -> Iterator[ClassMap]:
        """Yield the rows that are left; no band may follow."""
        if self._held:
            yield from self._finish(is_last=True)

    def _is_time(self, width: int) -> bool:
        """Return whether to look for sheets, which is not done anew for each row of a long one."""
        return self._coming >= self._rows or (self._rows + self._coming) * width > HELD_CELLS

    def _finish(self, is_last: bool) -> Iterator[ClassMap]:
        codes, pending = np.concatenate(self._codes), np.concatenate(self._pending)
        end, begun = (len(pending), pending) if is_last else complete_rows(pending)
        if (len(codes) - end) * codes.shape[1] > HELD_CELLS:
            end = row_of_least(pending)
            begun = pending.copy()
            begun[end:] = False
        for sheet in sheets_of(begun):
            self._make_whole(codes[sheet.box], pending[sheet.box], sheet.cells)
        yield from self._taken(codes, end)
        self._codes, self._pending = [codes[end:].copy()], [pending[end:].copy()]
        self._rows, self._coming = len(codes) - end, 0

    def _make_whole(self, codes: np.ndarray, pending: np.ndarray, sheet: np.ndarray) -> None:
        """Give each gland of a sheet its code; all bool or uint8 [h, w] of its box."""
        from model.instances import glands_of_codes

        own = pending & sheet
        read = np.where(own, codes, np.uint8(NODATA))
        codes[own] = self._classes.silent
        pending[own] = False
        if np.count_nonzero(sheet) < self._reading.min_object_um2 / self._reading.mpp**2:
            return
        glands = glands_of_codes(read, self._reading)
        whole = (glands > 0) & (codes != NODATA)
        codes[whole] = self._classes.code_of(colors_of(glands))[glands[whole]]

    def _taken(self, codes: np.ndarray, end: int) -> Iterator[ClassMap]:
        """Yield the held rows before `end` with their codes."""
        begin = 0
        while begin < end:
            band = self._held.popleft()
            count = min(len(band.codes), end - begin)
            yield replace(band.rows(0, count), codes=codes[begin : begin + count])
            if count < len(band.codes):
                self._held.appendleft(band.rows(count, len(band.codes)))
            begin += count
