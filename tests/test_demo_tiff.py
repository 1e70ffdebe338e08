"""The demo's slide file is one that OpenSlide opens as a whole slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest

from qupath_bridge.demo.tiff import halve, level_sizes, pyramid, write_pyramid
from qupath_bridge.errors import ProjectError, SlideError


@pytest.fixture
def pixels() -> np.ndarray:
    y, x = np.mgrid[0:1100, 0:2050]
    return np.stack([x * 255 // 2050, y * 255 // 1100, (x + y) // 13], axis=2).astype(np.uint8)


def test_openslide_sees_the_pixel_size_and_every_level(pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "Schön ist 🧬.tif"
    write_pyramid(path, pixels, 0.5)
    with openslide.OpenSlide(path) as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5)
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert list(slide.level_dimensions) == [(2050, 1100), (1025, 550), (512, 275)]
        assert level_sizes(2050, 1100) == list(slide.level_dimensions)
        assert slide.properties["openslide.level[0].tile-width"] == "256"


def test_pixels_come_back_but_for_jpeg(pixels: np.ndarray, tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tif", pixels, 0.5)
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        for level, expected in enumerate(pyramid(pixels)):
            seen = slide.read_region((0, 0), level, slide.level_dimensions[level])
            error = np.asarray(seen)[..., :3].astype(int) - expected
            assert np.abs(error).mean() < 1.5


def test_a_level_is_the_mean_of_four_pixels_without_shift() -> None:
    block = np.zeros((4, 6, 3), dtype=np.uint8)
    block[0:2, 0:2] = 100
    block[2, 4], block[3, 5] = 10, 11
    half = halve(block)
    assert half.shape == (2, 3, 3)
    assert (half[0, 0] == 100).all() and (half[1, 2] == 5).all() and half.sum() == 3 * 105


def test_an_odd_edge_is_left_out_and_the_mean_stays(pixels: np.ndarray) -> None:
    assert halve(pixels[:7, :9]).shape == (3, 4, 3)
    assert halve(pixels).mean() == pytest.approx(pixels.mean(), abs=0.2)


def test_what_is_no_slide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="8-bit RGB"):
        write_pyramid(tmp_path / "a.tif", np.zeros((300, 300), dtype=np.uint8), 0.5)
    with pytest.raises(SlideError, match=r"0\.0 um/px"):
        write_pyramid(tmp_path / "a.tif", np.zeros((300, 300, 3), dtype=np.uint8), 0.0)


def test_a_failed_write_leaves_nothing_behind(pixels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="nowhere"):
        write_pyramid(tmp_path / "nowhere" / "a.tif", pixels, 0.5)
    assert list(tmp_path.iterdir()) == []
