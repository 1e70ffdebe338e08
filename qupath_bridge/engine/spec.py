"""What a worker of a cluster is told of an image, and of the model: plain data that travels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from shapely.geometry.base import BaseGeometry

from model.home import models_home
from qupath_bridge import __version__
from qupath_bridge.engine.sweep import Sweep
from qupath_bridge.engine.work import ImageWork
from qupath_bridge.fingerprint import ENGINE
from qupath_bridge.geometry import Mpp
from qupath_bridge.segment import Engine
from qupath_bridge.settings import RunSettings
from qupath_bridge.tiles import Tile

PROGRAM = f"{__version__}, engine {ENGINE}"


@dataclass(frozen=True)
class ModelSpec:
    """A model that every worker finds by itself, and how it is applied; `name` may be a folder."""

    name: str
    fingerprint: str
    heads: tuple[str, ...]
    settings: RunSettings
    program: str = PROGRAM

    @classmethod
    def of(cls, engine: Engine) -> ModelSpec:
        """Return an engine's model: by its name where it is installed, else by its folder."""
        name = engine.settings.model
        installed = name == "default" or engine.folder == models_home() / name
        folder = str(engine.folder.resolve())
        heads = tuple(engine.heads)
        return cls(name if installed else folder, engine.card.fingerprint, heads, engine.settings)


@dataclass(frozen=True)
class ImageSpec:
    """An image, and what its bands are.

    mpp: um per pixel. outlines_m: of its regions. glass: a bit for each tile of the sweep, in
    order: set where it is bare glass. bands: how the sweep is cut. batch: tiles computed at once.
    """

    model: ModelSpec
    path: str
    file_bytes: int
    mpp: Mpp
    size_l0: tuple[int, int]
    outlines_m: tuple[BaseGeometry, ...]
    glass: bytes
    bands: tuple[tuple[int, int, int], ...]
    batch: int

    @classmethod
    def of(cls, work: ImageWork, batch: int) -> ImageSpec:
        """Return what a worker needs to know to do parts of an image's work."""
        slide, sweep = work.slide, work.sweep
        return cls(
            ModelSpec.of(work.engine),
            str(slide.path.resolve()),
            slide.path.stat().st_size,
            slide.mpp,
            (slide.width, slide.height),
            sweep.outlines_m,
            np.packbits(sweep.glass).tobytes(),
            sweep.cuts,
            batch,
        )

    def sweep(self, engine: Engine) -> Sweep:
        """Return the image's sweep, made anew without a look at its pixels."""

        def are_glass(tiles: Sequence[Tile]) -> np.ndarray:
            bits = np.unpackbits(np.frombuffer(self.glass, np.uint8))
            return bits[: len(tiles)].astype(bool)

        return Sweep(engine.plan, self.outlines_m, are_glass)
