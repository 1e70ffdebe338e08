"""Regions of a slide to detections: tiles read ahead, scored, fused, traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model import HeadClass, ModelCard, load_segmenter
from qupath_bridge.detections import Detection
from qupath_bridge.errors import SlideError
from qupath_bridge.geometry import Region, Scale
from qupath_bridge.heads import HeadTracer
from qupath_bridge.measurements import make_detections
from qupath_bridge.polygons import PolygonSettings
from qupath_bridge.project.base import ProjectImage
from qupath_bridge.settings import RunSettings
from qupath_bridge.slide import Slide, open_slide
from qupath_bridge.tiles import Tile, TilePlan, tiles_of

if TYPE_CHECKING:
    from model.segmenter import Segmenter

BATCHES = {"cpu": 4, "mps": 16, "cuda": 64}
Advance = Callable[[int], None]
Load = Callable[[Path, Sequence[str] | None, str], "Segmenter"]


@dataclass
class Engine:
    """A model and how it is applied; the model is loaded when the first tile needs it.

    load: what loads it, of its folder, heads and device.
    """

    folder: Path
    card: ModelCard
    heads: list[str]
    settings: RunSettings
    load: Load = load_segmenter

    @cached_property
    def model(self) -> Segmenter:
        return self.load(self.folder, self.heads, self.settings.device)

    @property
    def classes(self) -> dict[str, tuple[HeadClass, ...]]:
        """Return the classes of each head in use."""
        return {head: self.card.heads[head].classes for head in self.heads}

    @property
    def plan(self) -> TilePlan:
        """Return how tiles lie: the overlap asked for, or what the unused rims need at least."""
        card = self.card
        lattice = 8 * card.cell_m
        stride_m = int(card.tile_m * (1 - self.settings.overlap)) // lattice * lattice
        stride_m = max(lattice, min(stride_m, card.tile_m - 2 * card.margin_m))
        return TilePlan(card.tile_m, stride_m, card.margin_m, card.cell_m)

    def count_tiles(self, slide: Slide, regions: Sequence[Region]) -> int:
        """Return how many tiles the model has to see."""
        scale = Scale.between(slide.mpp, self.card.mpp)
        return sum(len(tiles_of(scale.to_m(r.outline_l0), self.plan)) for r in regions)

    def segment(self, slide: Slide, regions: Sequence[Region], advance: Advance) -> list[Detection]:
        """Return what all heads find in the regions, the objects of silent classes too.

        `advance` is told of tiles done.

        Raises:
            SlideError: the slide cannot be read. ModelError: the model cannot be loaded.
        """
        scale = Scale.between(slide.mpp, self.card.mpp)
        return [
            detection
            for region in regions
            for head, tracer in self._tracers(slide, region, scale, advance)
            for detection in make_detections(
                tracer.objects(), scale, slide.mpp, head, region, self.classes[head]
            )
        ]

    def _tracers(
        self, slide: Slide, region: Region, scale: Scale, advance: Advance
    ) -> Iterator[tuple[str, HeadTracer]]:
        """Yield each head with what traces it in a region; a tile is scored once for all heads."""
        outline_m = scale.to_m(region.outline_l0)
        tiles = tiles_of(outline_m, self.plan)
        tracers = {
            head: HeadTracer(self.plan, outline_m, classes, self.card.mpp, self._polygon_settings)
            for head, classes in self.classes.items()
        }
        for batch, pixels in self.read_ahead(slide, tiles, scale):
            scores = self.model.probabilities(pixels, [(t.x_m, t.y_m) for t in batch])
            for head, tracer in tracers.items():
                for tile, probabilities in zip(batch, scores[head], strict=True):
                    tracer.add(tile, probabilities)
            advance(len(batch))
        while tracers:  # one by one, so that a head's map is gone before the next one's objects
            head = next(iter(tracers))
            yield head, tracers.pop(head)

    def read_ahead(
        self, slide: Slide, tiles: Sequence[Tile], scale: Scale
    ) -> Iterator[tuple[Sequence[Tile], np.ndarray]]:
        """Yield batches of tiles with their pixels; the next is read while one is computed."""
        size = self.settings.batch_size or BATCHES[self.model.device.type]
        batches = [tiles[start : start + size] for start in range(0, len(tiles), size)]
        read = partial(_read_tiles, slide, scale, self.card.tile_m)
        with ThreadPoolExecutor(1, "read-ahead") as reader:
            coming = reader.submit(read, batches[0]) if batches else None
            for batch, following in zip(batches, [*batches[1:], None], strict=True):
                pixels = coming.result() if coming else read(batch)
                coming = reader.submit(read, following) if following else None
                yield batch, pixels

    @property
    def _polygon_settings(self) -> PolygonSettings:
        chosen = self.settings
        return PolygonSettings(chosen.min_object_um2, chosen.min_hole_um2, chosen.simplify_um)


def open_image(image: ProjectImage, settings: RunSettings) -> Slide:
    """Return an image's file, opened.

    Raises:
        SlideError: it is of no use, or cannot be opened.
    """
    if image.unsupported:
        raise SlideError(f"{image.name} cannot be segmented: {image.unsupported}")
    return open_slide(image.path, mpp=image.mpp_or(settings.mpp), size_l0=image.size_l0)


def _read_tiles(slide: Slide, scale: Scale, tile_m: int, tiles: Sequence[Tile]) -> np.ndarray:
    """Return tiles' pixels, uint8 [B, tile_m, tile_m, 3]."""
    boxes = [scale.box_l0(tile.x_m, tile.y_m, tile_m, tile_m) for tile in tiles]
    return np.stack([slide.read(box, tile_m, tile_m) for box in boxes])
