"""A slide of any size that is mostly glass: the same islands of drawn tissue again and again.

    python tests/benchmarks/sparse_slide.py FILE [--side PX]

Per area there is as much tissue on a small slide as on a large one, and each tile is stored in its
own place, as a scanner's are: JPEG of 256 px, YCbCr, levels of 1, 4, 16, 64.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from scipy import ndimage

from qupath_bridge.demo.drawing import draw_slide

PERIOD = 5120  # px from one island to the next; sides are multiples of it
ISLAND = 2048  # px, of the window in which an island is drawn
COVERAGE = 0.35  # of that window is tissue
TILE = 256
LEVELS = (1, 4, 16, 64)
MPP = 0.5
GLASS = (243, 242, 244)
JPEG_QUALITY = 80


def write_sparse_slide(path: Path, side: int) -> Path:
    """Write a slide of `side` x `side` px of 0.5 um, unless it is there; return its path.

    Raises:
        ValueError: the side is no multiple of PERIOD.
    """
    if side % PERIOD:
        raise ValueError(f"a side of {side} px is no multiple of {PERIOD} px")
    if path.exists():
        return path
    beside = path.with_suffix(".part")
    pixels = one_period()
    with tifffile.TiffWriter(beside, bigtiff=True) as tiff:
        for level in LEVELS:
            _write_level(tiff, _reduced(pixels, level), side // level, level)
    return beside.rename(path)


def one_period() -> np.ndarray:
    """Return an island on glass, uint8 [PERIOD, PERIOD, 3]."""
    drawn = draw_slide(5, ISLAND, ISLAND, coverage=COVERAGE)
    alpha = ndimage.gaussian_filter((drawn.tissue > 0).astype(np.float32), 4)
    frame = np.ones(ISLAND, bool)
    frame[16:-16] = False  # lest tissue end in a straight cut
    alpha[frame] = alpha[:, frame] = 0
    alpha = ndimage.gaussian_filter(alpha, 2)[..., None]
    pixels = np.full((PERIOD, PERIOD, 3), GLASS, np.uint8)
    start = (PERIOD - ISLAND) // 2
    mixed = alpha * drawn.pixels + (1 - alpha) * np.array(GLASS, np.float32)
    pixels[start : start + ISLAND, start : start + ISLAND] = mixed.round().astype(np.uint8)
    return pixels


def _reduced(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Return blocks of factor x factor pixels as their mean."""
    side = pixels.shape[0] // factor
    blocks = pixels.reshape(side, factor, side, factor, 3).astype(np.float32)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def _write_level(tiff: tifffile.TiffWriter, period: np.ndarray, side: int, level: int) -> None:
    per_cm = 1e4 / (MPP * level)
    tiff.write(
        _tiles(period, side),
        shape=(side, side, 3),
        dtype=np.uint8,
        photometric="ycbcr",
        subsampling=(2, 2),
        compression="jpeg",
        tile=(TILE, TILE),
        resolution=(per_cm, per_cm),
        resolutionunit="CENTIMETER",
        subfiletype=0 if level == 1 else 1,
        metadata=None,
    )


def _tiles(period: np.ndarray, side: int) -> Iterator[bytes]:
    """Yield a level's tiles, encoded, row by row; each that differs is encoded once."""
    length = period.shape[0]
    repeats = np.lcm(length, TILE) // TILE  # after so many tiles they come again
    known: dict[tuple[int, int], bytes] = {}
    count = -(-side // TILE)
    for row in range(count):
        for column in range(count):
            place = (row % repeats, column % repeats)
            if place not in known:
                rows, columns = ((np.arange(TILE) + TILE * n) % length for n in place)
                known[place] = _encoded(period[np.ix_(rows, columns)])
            yield known[place]


def _encoded(tile: np.ndarray) -> bytes:
    return imagecodecs.jpeg8_encode(
        tile, JPEG_QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--side", type=int, default=2 * PERIOD)
    chosen = parser.parse_args()
    print(write_sparse_slide(chosen.file, chosen.side))


if __name__ == "__main__":
    main()
