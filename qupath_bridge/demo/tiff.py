"""A whole-slide image file: a tiled, pyramidal TIFF that OpenSlide and QuPath open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from qupath_bridge.disk import replacing
from qupath_bridge.errors import SlideError

TILE_PX = 256
SMALLEST_LEVEL_PX = 1024
JPEG_QUALITY = 85
UM_PER_CM = 10_000


def write_pyramid(path: Path, pixels: np.ndarray, mpp: float) -> None:
    """Write uint8 [H, W, 3] pixels of `mpp` um as a pyramid, whole or not at all.

    OpenSlide reads the pixel size of a plain TIFF from its resolution in pixels per centimetre.

    Raises:
        SlideError: the pixels are not 8-bit RGB, or `mpp` is not above 0.
        ProjectError: the system refused to write.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise SlideError(f"cannot write {pixels.dtype} {pixels.shape} as a slide; give 8-bit RGB")
    if not mpp > 0:
        raise SlideError(f"cannot write a slide of {mpp} um/px; give a pixel size above 0")
    with replacing(path) as beside, tifffile.TiffWriter(beside) as tiff:
        for index, level in enumerate(pyramid(pixels)):
            per_cm = UM_PER_CM / mpp * level.shape[1] / pixels.shape[1]
            tiff.write(
                level,
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": JPEG_QUALITY},
                tile=(TILE_PX, TILE_PX),
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=1 if index else 0,  # a reduced copy of the image before it
                metadata=None,
            )


def pyramid(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the image, then halves of it, each pixel the mean of four, down to below 1024 px."""
    level = pixels
    yield level
    while max(level.shape[:2]) >= SMALLEST_LEVEL_PX:
        level = halve(level)
        yield level


def level_sizes(width: int, height: int) -> list[tuple[int, int]]:
    """Return (width, height) of each level that `write_pyramid` writes."""
    sizes = [(width, height)]
    while max(sizes[-1]) >= SMALLEST_LEVEL_PX:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


def halve(pixels: np.ndarray) -> np.ndarray:
    """Return uint8 [H // 2, W // 2, 3], each pixel the mean of four, rounded to nearest."""
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    whole = pixels[:height, :width].astype(np.uint16)
    rows = whole[0::2] + whole[1::2]
    return ((rows[:, 0::2] + rows[:, 1::2] + 2) // 4).astype(np.uint8)
