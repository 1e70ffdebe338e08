"""From a project to squares that are worth annotating next.

Of each image a bounded number of squares is looked at, drawn at random from a lattice over its
tissue, outside of what is annotated already, each through one patch in its middle. A square's
uncertainty is the mean entropy of its patch's class probabilities, its novelty the distance of its
patch's embedding to the nearest one that the head was trained on; `model.selection` picks by both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import numpy as np
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from model.novelty import load_embeddings, novelty
from model.selection import Candidates, choose
from qupath_bridge.blending import normalised_entropy
from qupath_bridge.engine.compute import Advance
from qupath_bridge.engine.source import TileSource
from qupath_bridge.errors import EXPECTED_ERRORS, RegionError, SettingsError
from qupath_bridge.image_run import Run
from qupath_bridge.overview import Overview
from qupath_bridge.pipeline import opened_for_writing
from qupath_bridge.progress import Reporter
from qupath_bridge.project.base import Annotation, ProjectImage, Suggestion
from qupath_bridge.regions import tissue_region
from qupath_bridge.segment import Engine, open_image
from qupath_bridge.settings import RunSettings
from qupath_bridge.slide import Slide
from qupath_bridge.squares import draw_squares, lattice_of, tile_in
from qupath_bridge.suggestions import is_untouched, make_suggestion

OUTLINES_ONLY = "Region*"
"""Annotations of this class, and of none, say where to work, not what is there."""


@dataclass(frozen=True)
class SuggestSettings:
    """What is suggested: at most `count` squares of `size_um`, of `candidates` an image.

    seed: of the drawing of candidates.

    Raises:
        SettingsError: one is out of range.
    """

    count: int = 10
    size_um: float = 256.0
    candidates: int = 48
    seed: int = 1

    def __post_init__(self) -> None:
        limits = {"count": (1, 500), "size_um": (10, 10_000), "candidates": (1, 10_000)}
        if self.seed < 0:
            raise SettingsError(f"a seed is a whole number from 0; got {self.seed}")
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also catches NaN
                raise SettingsError(f"{name} must be in {low}..{high}; got {value}")


@dataclass
class SuggestReport:
    """What was suggested, in the order of worth, and what became of images that failed."""

    suggested: list[tuple[ProjectImage, Suggestion]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return a line for each suggestion, and one for all."""
        lines = [
            f"{suggestion.name}: {image.name}, x {x:.0f}, y {y:.0f} px, "
            + ", ".join(
                f"{name.rpartition(': ')[2].lower()} {value:.2f}"
                for name, value in suggestion.measurements.items()
            )
            for image, suggestion in self.suggested
            for x, y in [suggestion.outline_l0.bounds[:2]]
        ]
        images = len({image.entry_id for image, _ in self.suggested})
        last = f"{len(self.suggested)} suggestions in {images} images"
        return "\n".join([*lines, last + (f"; {len(self.failed)} failed" if self.failed else "")])


@dataclass(frozen=True)
class Seen:
    """One image's candidates: squares, their uncertainty [N] and their embeddings [N, D]."""

    image: ProjectImage
    squares: list[Polygon]
    uncertainty: np.ndarray
    embedding: np.ndarray


def suggest_for_project(
    path: Path, settings: RunSettings, wanted: SuggestSettings, reporter: Reporter
) -> SuggestReport:
    """Write suggestions into a project and return them; what fails with one image is in the report.

    Raises:
        ProjectError, ModelError: it cannot begin. RegionError: no image has a square to suggest.
    """
    report = SuggestReport()
    with opened_for_writing(path, settings, reporter.say) as run:
        known = _known(run.engine, reporter)
        seen = _see_images(run, wanted, report, reporter)
        if not any(one.squares for one in seen):
            raise RegionError(
                report.failed[0]
                if report.failed
                else f"no image of {path} has a square of {wanted.size_um:g} um on tissue that is"
                " not annotated yet; pass a smaller --size, or add images"
            )
        chosen = _chosen(seen, known, wanted.count)
        for number, one in enumerate(seen):
            mine = [suggestion for index, suggestion in chosen if index == number]
            try:
                run.project.write_suggestions(one.image, mine)
            except EXPECTED_ERRORS as error:
                _fail(one.image, error, report, reporter)
                chosen = [pair for pair in chosen if pair[0] != number]
    report.suggested = [(seen[index].image, suggestion) for index, suggestion in chosen]
    return report


def _known(engine: Engine, reporter: Reporter) -> np.ndarray | None:
    """Return what the heads in use were trained on, float32 [N, D]; None where none kept it."""
    kept = {head: load_embeddings(engine.folder, head) for head in engine.heads}
    without = [head for head, embeddings in kept.items() if embeddings is None]
    if without:
        reporter.say(
            f"{', '.join(without)} kept nothing of what it was trained on: whether tissue is new to"
            " it does not count"
        )
    known = [embeddings for embeddings in kept.values() if embeddings is not None]
    return np.concatenate(known) if known else None


def _see_images(
    run: Run, wanted: SuggestSettings, report: SuggestReport, reporter: Reporter
) -> list[Seen]:
    """Return the candidates of every image that could be read, none of some."""
    seen = []
    for index, image in enumerate(run.images, start=1):
        try:
            seen.append(_see(run, image, index, wanted, reporter))
        except EXPECTED_ERRORS as error:
            _fail(image, error, report, reporter)
    return seen


def _see(
    run: Run, image: ProjectImage, index: int, wanted: SuggestSettings, reporter: Reporter
) -> Seen:
    with open_image(image, run.settings) as slide:
        annotations = run.project.read_annotations(image)
        rng = np.random.default_rng([wanted.seed, crc32(image.entry_id.encode())])
        squares = _squares(slide, annotations, wanted, rng)
        if not squares:
            reporter.say(f"{image.name}: no square on tissue that is not annotated yet")
            return Seen(image, [], np.empty(0), np.empty((0, 0)))
        reporter.begin(image.name, index, len(run.images), len(squares))
        try:
            return Seen(image, squares, *_scores(run.engine, slide, squares, reporter.advance))
        finally:
            reporter.end()


def _squares(
    slide: Slide,
    annotations: Sequence[Annotation],
    wanted: SuggestSettings,
    rng: np.random.Generator,
) -> list[Polygon]:
    tissue = tissue_region(Overview.of(slide))
    if tissue is None:
        return []
    lattice = lattice_of((slide.width, slide.height), wanted.size_um, slide.mpp)
    taken = _taken(annotations)
    return draw_squares(tissue.outline_l0, taken, lattice, wanted.candidates, rng)


def _taken(annotations: Sequence[Annotation]) -> list[BaseGeometry]:
    """Return the shapes of annotations that say what is there, or that it does not matter."""
    return [
        a.geometry_l0
        for a in annotations
        if a.class_name and a.class_name.split(":")[0].strip() != OUTLINES_ONLY
        if not is_untouched(a) and not a.geometry_l0.is_empty
    ]


def _scores(
    engine: Engine, slide: Slide, squares: Sequence[Polygon], advance: Advance
) -> tuple[np.ndarray, np.ndarray]:
    """Return squares' uncertainty float32 [N], the mean over the heads, and embeddings [N, D]."""
    scale = engine.scale(slide)
    step_m = 8 * engine.card.cell_m
    tiles = [tile_in(square, scale, engine.card.tile_m, step_m) for square in squares]
    rim = engine.plan.margin_cells
    inside = slice(rim, engine.plan.tile_cells - rim)
    uncertainty, embeddings = [], []
    batches = [tiles[at : at + engine.batch] for at in range(0, len(tiles), engine.batch)]
    with TileSource(slide, scale, engine.card.tile_m) as source:
        for read in source.read_ahead(batches):
            scores = engine.model.probabilities(read.pixels, [(t.x_m, t.y_m) for t in read.tiles])
            entropies = [
                normalised_entropy(scores[head].swapaxes(0, 1))[:, inside, inside].mean(axis=(1, 2))
                for head in engine.heads
            ]
            uncertainty.append(np.mean(entropies, axis=0))
            embeddings.append(engine.model.embeddings(read.pixels))
            advance(len(read.tiles))
    return np.concatenate(uncertainty), np.concatenate(embeddings)


def _chosen(
    seen: Sequence[Seen], known: np.ndarray | None, count: int
) -> list[tuple[int, Suggestion]]:
    """Return the suggestions, numbered by worth, each with the index of its image in `seen`."""
    full = [(index, one) for index, one in enumerate(seen) if one.squares]
    squares = [square for _, one in full for square in one.squares]
    image = np.repeat([index for index, _ in full], [len(one.squares) for _, one in full])
    embedding = np.concatenate([one.embedding for _, one in full])
    uncertainty = np.concatenate([one.uncertainty for _, one in full])
    new = None if known is None else novelty(embedding, known)
    place = np.array([_place(square) for square in squares])
    picks = choose(Candidates(image, place, uncertainty, new, embedding), count)
    return [
        (
            int(image[row]),
            make_suggestion(
                number, squares[row], uncertainty[row], None if new is None else new[row]
            ),
        )
        for number, row in enumerate(picks, start=1)
    ]


def _place(square_l0: Polygon) -> tuple[float, float]:
    """Return a square's middle in sides of itself."""
    x0, y0, x1, y1 = square_l0.bounds
    return (x0 + x1) / 2 / (x1 - x0), (y0 + y1) / 2 / (y1 - y0)


def _fail(image: ProjectImage, error: Exception, report: SuggestReport, reporter: Reporter) -> None:
    report.failed.append(f"{image.name}: {error}")
    reporter.say(f"{image.name}: failed: {error}")
