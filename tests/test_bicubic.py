"""Resizing against Pillow's of images of floats; its boxes are float32, and so are these."""

import numpy as np
import pytest
from PIL import Image

from qupath_bridge.slide.bicubic import MOST_FLOATS, resized

Box = tuple[float, float, float, float]


def noise(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, columns, 3), np.uint8)


def by_pillow(pixels: np.ndarray, size: tuple[int, int], box: Box) -> np.ndarray:
    layers = [Image.fromarray(pixels[..., c].astype(np.float32)) for c in range(3)]
    floats = [np.asarray(layer.resize(size, Image.Resampling.BICUBIC, box)) for layer in layers]
    return np.stack(floats, axis=2)


@pytest.mark.parametrize(
    ("pixels", "size", "box"),
    [
        (noise(316, 616), (512, 256), (4.25, 4.375, 613.4375, 309)),  # 0.42 um
        (noise(524, 1036), (512, 256), (6, 6, 1030, 518)),  # 0.25 um
        (noise(90, 70), (200, 150), (3.5, 2.25, 68, 88)),  # enlarged
        (noise(300, 200), (1, 1), (0, 0, 200, 300)),
        (noise(5, 7), (9, 11), (1.5, 1.5, 6, 4)),
        (noise(1, 1), (3, 2), (0, 0, 1, 1)),
    ],
)
def test_it_is_pillows_of_floats_rounded_once(
    pixels: np.ndarray, size: tuple[int, int], box: Box
) -> None:
    found, expected = resized(pixels, size, box), by_pillow(pixels, size, box)
    assert found.dtype == np.uint8
    # Half-way cases may fall either way.
    assert np.abs(found - expected.clip(0, 255)).max() < 0.5 + 1e-3


def test_a_large_picture_is_the_same_although_few_rows_are_floats_at_a_time() -> None:
    pixels = noise(1500, 1400)
    assert pixels.size > 2 * MOST_FLOATS
    found = resized(pixels, (100, 300), (0, 0, 1400, 1500))
    assert np.abs(found - by_pillow(pixels, (100, 300), (0, 0, 1400, 1500))).max() < 0.5 + 1e-3
    upper = resized(pixels[:700], (100, 100), (0, 0, 1400, 500))
    np.testing.assert_array_equal(found[:100], upper)


def test_at_its_own_size_it_is_a_copy() -> None:
    pixels = noise(20, 30)
    copy = resized(pixels, (30, 20), (0, 0, 30, 20))
    np.testing.assert_array_equal(copy, pixels)
    assert not np.shares_memory(copy, pixels)
