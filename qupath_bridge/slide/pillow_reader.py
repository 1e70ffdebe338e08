"""PNG and JPEG images: one level, held in memory, no pixel size."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin
from PIL.ImageFile import ImageFile

from qupath_bridge.slide.base import DamagedError, NotRecognisedError, UnsupportedError

MAX_PIXELS = 400_000_000
"""Such files can only be decoded whole, and take 7 bytes a pixel on the way: 2.8 GB."""

SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
}
KINDS = {
    "1": "is black and white",
    "L": "is greyscale",
    "LA": "is greyscale",
    "I": "has 16-bit or 32-bit pixels",
    "I;16": "has 16-bit pixels",
    "F": "has floating-point pixels",
    "CMYK": "is a CMYK picture made for print",
}


class PillowSource:
    """A PNG or JPEG file; its pixels are decoded at the first read."""

    origin_l0 = (0, 0)
    # The resolution in such files is a printer's or a guess, never a microscope's.
    mpp = None

    def __init__(self, image: ImageFile) -> None:
        self._image = image
        self._pixels: np.ndarray | None = None
        self._failure: Exception | None = None
        self._lock = threading.Lock()
        self.size_l0 = image.size
        self.level_sizes = [image.size]

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return a part of the image, uint8 [height, width, 3]."""
        return self._decoded()[y : y + height, x : x + width]

    def _decoded(self) -> np.ndarray:
        with self._lock:
            if self._failure:  # the whole picture would be decoded again for every part of it
                raise DamagedError(str(self._failure)) from self._failure
            if self._pixels is None:
                self._pixels = self._decode()
            return self._pixels

    def _decode(self) -> np.ndarray:
        try:
            return _on_white(self._image)
        except Exception as error:  # decoders raise anything at all on a damaged file
            self._failure = error
            raise
        finally:
            self._image.close()

    def close(self) -> None:
        self._image.close()


def _on_white(image: ImageFile) -> np.ndarray:
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.array(image)
    rgba = image.convert("RGBA")
    ground = Image.new("RGB", rgba.size, "white")
    ground.paste(rgba, mask=rgba)
    return np.array(ground)


def open_with_pillow(path: Path, size_l0: tuple[int, int] | None) -> PillowSource:
    """Return the PNG or JPEG file, its header read.

    Raises:
        NotRecognisedError: it is neither PNG nor JPEG.
        DamagedError: its header is broken.
        UnsupportedError: its pixels are not 8-bit RGB, or too many.
    """
    with path.open("rb") as file:
        start = file.read(8)
    kind = next((kind for sign, kind in SIGNATURES.items() if start.startswith(sign)), None)
    if kind is None:
        raise NotRecognisedError("neither PNG nor JPEG")
    try:
        # Not through Image.open: its limit of 179 megapixels is global and no bound of ours.
        image = kind(path)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DamagedError(str(error)) from error
    try:
        _refuse_unfit(image)
    except UnsupportedError:
        image.close()
        raise
    return PillowSource(image)


def _refuse_unfit(image: ImageFile) -> None:
    if image.mode not in ("RGB", "RGBA", "P"):
        raise UnsupportedError(KINDS.get(image.mode, f"has pixels of the kind {image.mode}"))
    if any("16" in str(tile.args) for tile in image.tile):
        raise UnsupportedError("has 16-bit pixels")
    if image.width * image.height > MAX_PIXELS:
        raise UnsupportedError(
            f"is a single picture of {image.width} x {image.height} pixels, more than the "
            f"{MAX_PIXELS:,} that fit in memory; save it as a tiled pyramidal TIFF"
        )
