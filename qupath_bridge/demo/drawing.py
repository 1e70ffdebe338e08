"""Slides of invented tissue, stained with haematoxylin and eosin, whose truth is exact.

For showing and testing the program, and for training its small model; not real histology.
Everything follows from the seed: tissue, shares of the classes, shapes, stain and scanner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qupath_bridge.demo.cells import CellLayer, draw_cells
from qupath_bridge.demo.layout import BACKGROUND, Layout, draw_layout
from qupath_bridge.demo.noise import smooth_noise, stream
from qupath_bridge.demo.stain import develop
from qupath_bridge.demo.texture import Dyes, draw_fibres, draw_matrix
from qupath_bridge.errors import SettingsError

MPP = 0.5
SMALLEST_PX = 256
TISSUE_CLASSES = ("Background", "Tumor", "Stroma", "Immune cells", "Necrosis", "Other")
GLAND_CLASSES = ("Background", "Gland")


@dataclass(frozen=True)
class DemoSlide:
    """A drawn slide at 0.5 um/px and its truth.

    `pixels` uint8 [H, W, 3]; `tissue` and `glands` uint8 [H, W], codes into `TISSUE_CLASSES`
    and `GLAND_CLASSES`.
    """

    pixels: np.ndarray
    tissue: np.ndarray
    glands: np.ndarray


def draw_slide(
    seed: int, width: int = 4096, height: int = 4096, *, coverage: float | None = None
) -> DemoSlide:
    """Return the slide of a seed, the same bit for bit every time.

    `coverage` is the share of the image that is tissue (1: all of it); None leaves it to the
    seed. Small images are windows at the same scale, with fewer classes each.

    Raises:
        SettingsError: the image is smaller than 256 px, or the coverage not in (0, 1].
    """
    _check(seed, width, height, coverage)
    shape = (height, width)
    layout = draw_layout(seed, shape, coverage)
    fibres = draw_fibres(seed, shape)
    cells = draw_cells(seed, layout, fibres.angle)
    matrix = draw_matrix(seed, layout, fibres)
    pixels = develop(seed, _combine(seed, layout, matrix, cells))
    return DemoSlide(pixels, layout.codes, (layout.glands.depth > 0).astype(np.uint8))


def _check(seed: int, width: int, height: int, coverage: float | None) -> None:
    if seed < 0:
        raise SettingsError(f"seed {seed} is negative; give 0 or more")
    if min(width, height) < SMALLEST_PX:
        raise SettingsError(
            f"a slide of {width} x {height} px is too small; give at least {SMALLEST_PX} px a side"
        )
    if coverage is not None and not 0 < coverage <= 1:
        raise SettingsError(f"coverage {coverage} is not in (0, 1]")


def _combine(seed: int, layout: Layout, matrix: Dyes, cells: CellLayer) -> Dyes:
    """Return the dyes of the whole section: nuclei push cytoplasm aside, glass has none."""
    glass = layout.codes == BACKGROUND
    blue = np.maximum(matrix.haematoxylin * (1 - cells.cover), 0) + cells.dye
    pink = matrix.eosin * (1 - np.float32(0.55) * cells.cover)
    speck = smooth_noise(stream(seed, "glass"), layout.codes.shape, 2.2)
    dirt = np.maximum(speck - 4.2, 0)
    blue[glass] = 0.02 * dirt[glass]
    pink[glass] = 0.0
    blue += np.float32(0.12) * dirt
    return Dyes(blue, pink)
