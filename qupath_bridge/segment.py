"""A model and how it is applied to an image: its heads, tiles, batches and shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model import HeadClass, ModelCard, load_segmenter
from qupath_bridge.engine.compute import Computation
from qupath_bridge.engine.glass import Glass
from qupath_bridge.engine.heap import keep_few_heaps
from qupath_bridge.engine.sweep import Sweep
from qupath_bridge.errors import SlideError
from qupath_bridge.geometry import Region, Scale
from qupath_bridge.overview import Overview
from qupath_bridge.polygons import PolygonSettings
from qupath_bridge.project.base import ProjectImage
from qupath_bridge.settings import RunSettings
from qupath_bridge.slide import Slide, open_slide
from qupath_bridge.tiles import Tile, TilePlan

if TYPE_CHECKING:
    from model.segmenter import Segmenter

Load = Callable[[Path, Sequence[str] | None, str, str], "Segmenter"]


@dataclass
class Engine:
    """A model and how it is applied; the model is loaded when the first tile needs it.

    load: what loads it, of its folder, heads, device and precision.
    """

    folder: Path
    card: ModelCard
    heads: list[str]
    settings: RunSettings
    load: Load = load_segmenter

    def __post_init__(self) -> None:
        keep_few_heaps()  # before there are threads

    @cached_property
    def model(self) -> Segmenter:
        chosen = self.settings
        return self.load(self.folder, self.heads, chosen.device, chosen.precision)

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

    @property
    def batch(self) -> int:
        """Return how many tiles are computed at once; this may load the model."""
        return self.settings.batch_size or self.model.batch_size

    @property
    def polygon_settings(self) -> PolygonSettings:
        chosen = self.settings
        return PolygonSettings(chosen.min_object_um2, chosen.min_hole_um2, chosen.simplify_um)

    def scale(self, slide: Slide) -> Scale:
        """Return the scale that takes a slide to model pixels."""
        return Scale.near(slide.mpp, self.card.mpp)

    def computation(self, slide: Slide, sweep: Sweep, batch: int) -> Computation:
        """Return what computes a slide's bands, `batch` tiles at once; this may load the model."""
        return Computation(slide, self.scale(slide), sweep, self.classes, self.model, batch)

    def sweep(self, slide: Slide, overview: Overview, regions: Sequence[Region]) -> Sweep:
        """Return what there is to compute: the tiles of all regions, bare glass left out."""
        scale = self.scale(slide)
        outlines_m = [scale.to_m(region.outline_l0) for region in regions]
        is_glass = partial(_is_glass, Glass.of(overview), scale, self.card.tile_m)
        return Sweep(self.plan, outlines_m, is_glass)


def _is_glass(glass: Glass, scale: Scale, tile_m: int, tiles: Sequence[Tile]) -> np.ndarray:
    boxes = [scale.box_l0(tile.x_m, tile.y_m, tile_m, tile_m) for tile in tiles]
    return glass.are_glass(*np.array(boxes).T)


def open_image(image: ProjectImage, settings: RunSettings) -> Slide:
    """Return an image's file, opened.

    Raises:
        SlideError: it is of no use, or cannot be opened.
    """
    if image.unsupported:
        raise SlideError(f"{image.name} cannot be segmented: {image.unsupported}")
    return open_slide(image.path, mpp=image.mpp_or(settings.mpp), size_l0=image.size_l0)
