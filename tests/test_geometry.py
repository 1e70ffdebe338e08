from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from array_source import ArraySource

from qupath_bridge.geometry import Mpp, Scale
from qupath_bridge.slide import Slide


@pytest.mark.parametrize(
    ("mpp", "scale"),
    [
        (Mpp(0.5, 0.5), (1, 1)),
        (Mpp(0.499, 0.5021), (1, 1)),
        (Mpp(0.2525, 0.2493), (2, 2)),
        (Mpp(0.1227, 0.25), (4, 2)),
        (Mpp(0.26, 0.25), (0.5 / 0.26, 2)),  # 4 % off
        (Mpp(0.511, 0.489), (0.5 / 0.511, 0.5 / 0.489)),
        (Mpp(1.0, 0.9), (0.5, 0.5 / 0.9)),  # enlarged
        (Mpp(100, 100), (0.005, 0.005)),
    ],
)
def test_a_scale_near_a_whole_number_is_that_number(mpp: Mpp, scale: tuple[float, float]) -> None:
    found = Scale.near(mpp, 0.5)
    assert (found.x, found.y) == scale


@pytest.mark.parametrize("mpp", [Mpp(0.499, 0.499), Mpp(0.2525, 0.2479), Mpp(0.26, 0.26)])
def test_a_model_pixel_is_as_large_as_what_it_covers(mpp: Mpp) -> None:
    scale = Scale.near(mpp, 0.5)
    box = scale.box_l0(0, 0, 100, 100)
    area_um2 = (box.x1 - box.x0) * (box.y1 - box.y0) * mpp.pixel_area_um2
    assert (100 * scale.pixel_um(mpp)) ** 2 == pytest.approx(area_um2)


def test_pixels_of_nearly_the_models_size_are_taken_as_they_are() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    slide = Slide(Path("memory"), ArraySource(pixels), Mpp(0.499, 0.503))
    scale = Scale.near(slide.mpp, 0.5)
    shown = slide.read(scale.box_l0(120, 90, 64, 64), 64, 64)
    assert np.array_equal(shown, pixels[90:154, 120:184])
