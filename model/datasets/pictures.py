"""Picture files as arrays, and their change of resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin
from PIL.ImageFile import ImageFile

from model.errors import ModelError

MOST_PIXELS = 400_000_000
"""20,000 squared. Regions of BCSS can be 10,000 pixels wide, more than Pillow lets pass."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
# Opened by name and not by Image.open: no other format is ever tried on a file, and the limit of
# size is ours, not one that Pillow keeps for the whole program.
SIGNATURES: dict[bytes, Callable[[BinaryIO, str], ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"II*\x00": TiffImagePlugin.TiffImageFile,
    b"MM\x00*": TiffImagePlugin.TiffImageFile,
}
COLOR_MODES, CODE_MODES = ("RGB", "RGBA", "P"), ("L", "P", "1", "I", "I;16", "I;16B")


def pictures_in(folder: Path) -> list[Path]:
    """Return the picture files of a folder by name; hidden and other files are left out.

    Raises:
        ModelError: it is not a folder that can be read.
    """
    try:
        files = [path for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        raise ModelError(f"{folder} cannot be read ({error.strerror}); name a folder") from error
    return sorted(
        p for p in files if p.suffix.lower() in SUFFIXES and not p.name.startswith((".", "~"))
    )


def read_rgb(path: Path) -> np.ndarray:
    """Return a picture, uint8 [H, W, 3], on white where it is transparent.

    Raises:
        ModelError: it cannot be read, or has no colours of 8 bits.
    """
    with _opened(path) as picture:
        if picture.mode not in COLOR_MODES:
            raise ModelError(f"{path} is of kind {picture.mode}; convert it to 8-bit RGB")
        if picture.mode == "RGB":
            return np.array(picture)
        rgba = picture.convert("RGBA")
        ground = Image.new("RGB", rgba.size, "white")
        ground.paste(rgba, mask=rgba)
        return np.array(ground)


def read_codes(path: Path) -> np.ndarray:
    """Return the numbers that the pixels of a mask are, integers [H, W].

    Raises:
        ModelError: it cannot be read, or has colours.
    """
    with _opened(path) as picture:
        if picture.mode not in CODE_MODES:
            raise ModelError(f"{path} has colours where a mask has one number a pixel")
        return np.array(picture).astype(np.int32)


def same_size(image: np.ndarray, mask: np.ndarray, path: Path) -> None:
    """Refuse a mask that is not of its image's size.

    Raises:
        ModelError: it is not.
    """
    (h, w), (mask_h, mask_w) = image.shape[:2], mask.shape[:2]
    if (h, w) != (mask_h, mask_w):
        raise ModelError(
            f"{path} is {mask_w} x {mask_h} pixels, but its image {w} x {h}; get the pair anew"
        )


def scaled_rgb(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Return an image `factor` times as large, uint8 [H, W, 3]; averages areas, or interpolates.

    What does not fill a pixel of the result at the far edges is left out, so the scale is exact.
    """
    if factor == 1:
        return pixels
    method = Image.Resampling.BOX if factor < 1 else Image.Resampling.BILINEAR
    size, box = _size_and_box(pixels, factor)
    return np.asarray(Image.fromarray(pixels).resize(size, method, box=box))


def scaled_codes(codes: np.ndarray, factor: float) -> np.ndarray:
    """Return a plane `factor` times as large, [H, W]: the value at each pixel's middle."""
    if factor == 1:
        return codes
    (width, height), _ = _size_and_box(codes, factor)
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) / factor).astype(int), limit - 1)
        for n, limit in zip((height, width), codes.shape, strict=True)
    )
    return codes[rows[:, None], columns]


def voted_codes(codes: np.ndarray, factor: float) -> np.ndarray:
    """Return uint8 codes `factor` <= 1 times as large: what most of each pixel is."""
    if factor >= 1:
        return scaled_codes(codes, factor)
    size, box = _size_and_box(codes, factor)
    winner, most = np.zeros(size[::-1], np.uint8), np.zeros(size[::-1], np.uint8)
    for code in np.unique(codes):
        here = Image.fromarray((codes == code) * np.uint8(255))
        share = np.asarray(here.resize(size, Image.Resampling.BOX, box=box))
        winner[share > most] = code
        most = np.maximum(share, most)
    return winner


def _size_and_box(
    plane: np.ndarray, factor: float
) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """Return (width, height) of the result, and the part of the source that it shows.

    Raises:
        ModelError: that would be more than a machine holds.
    """
    height, width = plane.shape[:2]
    if not width * height * factor**2 <= MOST_PIXELS:  # also catches NaN
        raise ModelError(
            f"a picture of {width} x {height} pixels cannot be enlarged {factor:g} times; look at"
            " the pixel size that it is said to have"
        )
    # A little more than nothing: 2000 * 0.25 / 0.5 must not become 999 by rounding.
    size = (max(1, int(width * factor + 1e-6)), max(1, int(height * factor + 1e-6)))
    return size, (0.0, 0.0, min(width, size[0] / factor), min(height, size[1] / factor))


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile]:
    try:
        with path.open("rb") as file:
            start = file.read(8)
            kind = next((kind for sign, kind in SIGNATURES.items() if start.startswith(sign)), None)
            if kind is None:
                raise ModelError(f"{path} is not a PNG, JPEG, TIFF or BMP picture; convert it")
            file.seek(0)
            picture = kind(file, str(path))
            if picture.width * picture.height > MOST_PIXELS:
                raise ModelError(f"{path} has too many pixels to be read whole; cut it into parts")
            picture.load()
            yield picture
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ModelError(f"{path} cannot be read ({error}); get it anew or remove it") from error
