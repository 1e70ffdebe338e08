"""The whole engine, from an opened slide to objects on disk, against its floors; for pipe.py.

Engine: `ImageWork.of(...).done(...)`, with the checkpoint, tracing and spooling; the slide's
overview, for which a slide without small levels is decoded whole, is made before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import wall_and_cpu
from scipy import ndimage
from shapely.geometry import box

from model import load_segmenter
from model.card import ModelCard, read_card
from model.home import DEFAULT_MODEL
from qupath_bridge.engine.checkpoint import Checkpoint
from qupath_bridge.engine.source import TileSource
from qupath_bridge.engine.work import ImageWork
from qupath_bridge.geometry import BoxL0, Mpp, Region
from qupath_bridge.overview import Overview
from qupath_bridge.segment import Engine
from qupath_bridge.settings import RunSettings
from qupath_bridge.slide import open_slide

HEAD = "tissue"  # of the shipped model; it has six classes
BATCH = 16
PERIOD = 512  # cells after which the drawn scores come again
BLOB, SMALL_BLOB = 36, 16
"""Cells, of the Gaussian that makes blobs of noise: in all about 100 objects a mm2, as many as the
shipped model finds in CMU-1-Small-Region (93), and four times as many."""
SHARPNESS = 4.0


class KnownScores:
    """Stands where a segmenter stands, and computes nothing: the scores of a place are known.

    Blobs of all classes of a head, drawn once; a batch's scores are a list of float32 [K, h, w].
    blob: their size.
    """

    batch_size = BATCH

    def __init__(self, card: ModelCard, stride_m: int, blob: int) -> None:
        self.card, self.heads = card, [HEAD]
        self._stride_m, self._cell_m = stride_m, card.cell_m
        field = drawn_scores(len(card.heads[HEAD].classes), blob)
        cells, step = card.tile_m // card.cell_m, stride_m // card.cell_m
        self._per_side = PERIOD // step
        self._known = {
            (x, y): np.ascontiguousarray(
                field[:, y * step : y * step + cells, x * step : x * step + cells]
            )
            for x in range(self._per_side)
            for y in range(self._per_side)
        }

    def stream(self, batches: Iterable[Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield the scores of batches (key, tiles, origins) with their keys."""
        for key, tiles, origins_m in batches:
            yield key, self.probabilities(tiles, origins_m)

    def probabilities(
        self, tiles: np.ndarray, origins_m: Sequence[tuple[int, int]]
    ) -> dict[str, Any]:
        """Return the scores of tiles, which are not looked at."""
        places = [(x // self._stride_m, y // self._stride_m) for x, y in origins_m]
        return {HEAD: [self._known[x % self._per_side, y % self._per_side] for x, y in places]}


def drawn_scores(count: int, blob: int, cells: int = PERIOD) -> np.ndarray:
    """Return probabilities of blobs, float32 [count, 1.5 cells, 1.5 cells], `cells` a period."""
    random = np.random.default_rng(0)
    noise = random.standard_normal((count, cells, cells), np.float32)
    smooth = np.stack([ndimage.gaussian_filter(layer, blob, mode="wrap") for layer in noise])
    scores = np.exp(SHARPNESS * smooth / smooth.std())
    scores /= scores.sum(axis=0)
    return np.pad(scores, [(0, 0), (0, cells // 2), (0, cells // 2)], mode="wrap")


def free_engine(blob: int = BLOB) -> Engine:
    """Return an engine with one head of the shipped model's card, whose scores are known."""
    card = read_card(DEFAULT_MODEL)
    engine = Engine(DEFAULT_MODEL, card, [HEAD], RunSettings())
    known = KnownScores(card, engine.plan.stride_m, blob)
    engine.load = lambda folder, heads, device, precision: known  # type: ignore[assignment]
    return engine


def model_engine(folder: Path) -> Engine:
    """Return an engine with a model and all its heads."""
    card = read_card(folder)
    return Engine(folder, card, card.choose_heads(None), RunSettings(), load_segmenter)


@dataclass(frozen=True)
class Repeated:
    """A box of a slide that is segmented again and again, the slide opened anew each time."""

    path: Path
    mpp: Mpp | None
    engine: Engine
    overview: Overview
    box_l0: BoxL0

    def run(self) -> int:
        """Segment it, and return how many objects it has."""
        with self._opened() as work, tempfile.TemporaryDirectory() as folder:
            done = work.done(Checkpoint(Path(folder)), self.engine.batch, lambda count: None)
            return len(done.objects)

    def tiles(self) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Return the pixels of all tiles, uint8 [N, tile_m, tile_m, 3], and their corners."""
        with self._opened() as work:
            tiles, side = work.sweep.tiles, work.sweep.plan.tile_m
            batches = (tiles[i : i + BATCH] for i in range(0, len(tiles), BATCH))
            with TileSource(work.slide, work.engine.scale(work.slide), side) as source:
                pixels = [batch.pixels for batch in source.read_ahead(batches)]
            return np.concatenate(pixels), [(tile.x_m, tile.y_m) for tile in tiles]

    @contextmanager
    def _opened(self) -> Iterator[ImageWork]:
        with open_slide(self.path, self.mpp) as slide:
            region = Region("box", "box", "annotation", box(*self.box_l0))
            yield ImageWork.of(self.engine, slide, self.overview, [region])


def repeated(path: Path, mpp: Mpp | None, engine: Engine, side: int | None) -> Repeated:
    """Return the square of `side` level-0 px in a slide's middle, or the whole slide."""
    with open_slide(path, mpp) as slide:
        width, height = (min(side or full, full) for full in (slide.width, slide.height))
        x, y = (slide.width - width) // 2, (slide.height - height) // 2
        return Repeated(path, mpp, engine, Overview.of(slide), BoxL0(x, y, x + width, y + height))


def engine_times(
    it: Repeated, raw: Callable[[], object], alone: bool, repeat: int
) -> dict[str, float]:
    """Return the least wall and CPU seconds of raw decoding, the engine, and the model alone.

    They take turns. alone: whether to measure the model on the same tiles from memory.
    """
    found: dict[str, float] = {"objects": it.run()}  # all is loaded and warm now
    ways: dict[str, Callable[[], object]] = {"raw": raw, "engine": it.run}
    if alone:
        pixels, origins_m = it.tiles()
        found["tiles"] = len(pixels)
        ways["model"] = lambda: model_alone(it.engine, pixels, origins_m)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            taken[name].append(wall_and_cpu(way))
    for name, times in taken.items():
        found[f"{name}_wall"], found[f"{name}_cpu"] = map(min, zip(*times, strict=True))
    return found


def model_alone(engine: Engine, pixels: np.ndarray, origins_m: list[tuple[int, int]]) -> None:
    """Let the model see tiles from memory, in the batches that the engine makes."""
    size = engine.batch
    starts = range(0, len(pixels), size)
    batches = ((i, pixels[i : i + size], origins_m[i : i + size]) for i in starts)
    for _ in engine.model.stream(batches):
        pass
