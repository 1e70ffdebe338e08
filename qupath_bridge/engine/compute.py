"""The pipe: pixels decoded ahead, the model, behind it the fusion of what it says, then bands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from model import HeadClass
from qupath_bridge.engine.follower import Follower
from qupath_bridge.engine.fused import BandFuser, FusedBand
from qupath_bridge.engine.heap import Held
from qupath_bridge.engine.source import PixelBatch, TileSource
from qupath_bridge.engine.sweep import Batch, Sweep
from qupath_bridge.geometry import Scale
from qupath_bridge.slide import Slide
from qupath_bridge.tiles import Tile

if TYPE_CHECKING:
    from model.segmenter import Segmenter

Take = Callable[[int, FusedBand], None]
Advance = Callable[[int], None]
Key = tuple[Batch, frozenset[Tile]]
Origins = list[tuple[int, int]]


@dataclass(frozen=True)
class Computation:
    """What computes bands of one image.

    classes: those of each head. batch: tiles that go through the model at once.
    """

    slide: Slide
    scale: Scale
    sweep: Sweep
    classes: Mapping[str, Sequence[HeadClass]]
    model: Segmenter
    batch: int

    def run(self, first: int, end: int, take: Take, advance: Advance) -> None:
        """Compute the bands from `first` to before `end`, and hand each to `take`, in order.

        `take` is called in a thread of its own, while the next tiles are computed and fused;
        `advance` is told of tiles done, in the caller's.

        Raises:
            SlideError: the slide cannot be read any more. ModelError: the device failed.
        """
        batches = self.sweep.batches(self.batch, first, end)
        held = Held()
        with (
            TileSource(self.slide, self.scale, self.sweep.plan.tile_m) as source,
            Follower("take", ahead=1) as taker,
            Follower("fuse", leads=taker) as follower,
        ):
            fusing = _Fusing(self.sweep, self.classes, first, end, partial(taker.do, take))
            pixels_of = source.read_ahead(batch.tiles for batch in batches)
            coming = zip(batches, pixels_of, strict=True)
            for (batch, undecodable), scores in self.model.stream(map(_given, coming)):
                follower.do(fusing.add, batch, scores, undecodable)
                held.done(len(batch.tiles))
                if batch.band >= first:
                    advance(len(batch.tiles))
            follower.do(fusing.finish_before, end)


def _given(batch_and_pixels: tuple[Batch, PixelBatch]) -> tuple[Key, np.ndarray, Origins]:
    """Return a batch as the model takes it."""
    batch, read = batch_and_pixels
    return (batch, read.undecodable), read.pixels, [(t.x_m, t.y_m) for t in batch.tiles]


class _Fusing:
    """What is done behind the model: batches of scores to bands."""

    def __init__(
        self,
        sweep: Sweep,
        classes: Mapping[str, Sequence[HeadClass]],
        first: int,
        end: int,
        take: Take,
    ) -> None:
        self._fuser = BandFuser(sweep, classes, first)
        self._next, self._take = first, take
        self._undecodable: Counter[int] = Counter()

    def add(
        self, batch: Batch, scores: Mapping[str, np.ndarray], undecodable: frozenset[Tile]
    ) -> None:
        """Take in a batch; when it is the first of its band, the bands before it are finished."""
        self.finish_before(batch.band)
        self._undecodable[batch.band] += len(undecodable)
        for index, tile in enumerate(batch.tiles):
            if tile not in undecodable:
                of_tile = {head: scores[head][index] for head in scores}
                self._fuser.add(batch.first + index, of_tile)

    def finish_before(self, band: int) -> None:
        """Hand on what is finished before a band."""
        while self._next < band:
            self._take(self._next, self._fuser.finish(self._next, self._undecodable[self._next]))
            self._next += 1
