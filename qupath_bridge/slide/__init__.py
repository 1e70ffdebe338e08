"""Image files, whatever opens them, in QuPath's level-0 coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np

from qupath_bridge.errors import PixelSizeError, SlideError, UndecodableError
from qupath_bridge.geometry import BoxL0, Mpp
from qupath_bridge.slide.base import (
    SUPPORTED,
    Level,
    NotRecognisedError,
    PixelSource,
    UnsupportedError,
    levels_of,
)
from qupath_bridge.slide.openslide_reader import open_with_openslide
from qupath_bridge.slide.pillow_reader import open_with_pillow
from qupath_bridge.slide.resample import Resampler
from qupath_bridge.slide.tiff_reader import open_with_tifffile
from qupath_bridge.slide.unchanged import FileMark

__all__ = ["Level", "Slide", "check_mpp", "open_slide"]

Opener = Callable[[Path, tuple[int, int] | None], PixelSource]
READERS: tuple[tuple[str, Opener], ...] = (
    ("OpenSlide", open_with_openslide),
    ("tifffile", open_with_tifffile),
    ("Pillow", open_with_pillow),
)

FINEST_UM, COARSEST_UM = 0.01, 100.0
MOST_OBLONG = 2.0
MPP_OPTION = " or pass --mpp"
PIXEL_SIZE_REMEDY = "set it in QuPath (Image tab, double-click the pixel size)"


class Slide:
    """An open image file; a context manager, and safe to read from several threads.

    `width` and `height` are QuPath's, in level-0 pixels; `levels` are the stored ones. `mark` is
    the file's before it was opened; None for pixels that no file stands for.
    """

    def __init__(
        self, path: Path, source: PixelSource, mpp: Mpp | None, mark: FileMark | None = None
    ) -> None:
        self.path = path
        self._mark = mark
        self.width, self.height = source.size_l0
        self.levels = levels_of(source.level_sizes)
        self._source = source
        self._mpp = mpp or source.mpp
        self._resampler = Resampler(source, self.levels, self._read_level)

    @property
    def mpp(self) -> Mpp:
        """Return the pixel size: the project's own, or else the file's.

        Raises:
            PixelSizeError: there is none, or it cannot be true.
        """
        return check_mpp(self._mpp, self.path)

    def read(self, box: BoxL0, width_m: int, height_m: int) -> np.ndarray:
        """Return a box of the image, resampled to width_m x height_m.

        uint8 RGB [height_m, width_m, 3]; white outside of the image and where it is transparent.

        Raises:
            UndecodableError: the pixels cannot be decoded.
        """
        if min(width_m, height_m) < 1 or box.x1 <= box.x0 or box.y1 <= box.y0:
            raise ValueError(f"nothing to read: {box} as {width_m} x {height_m} pixels")
        return self._resampler.read(box, width_m, height_m)

    def thumbnail(self, max_side: int) -> np.ndarray:
        """Return the whole image, its longer side `max_side` or the image's own if less."""
        scale = max(self.width / max_side, self.height / max_side, 1.0)
        size = (max(1, round(self.width / scale)), max(1, round(self.height / scale)))
        return self.read(BoxL0(0, 0, self.width, self.height), *size)

    def check_unchanged(self) -> None:
        """Do nothing if the file is still the one that was opened.

        Raises:
            SlideError: it was removed or changed since.
        """
        if self._mark:
            self._mark.check()

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        with _damage_named(self.path):
            return self._source.read_level(level, x, y, width, height)


def open_slide(path: Path, mpp: Mpp | None = None, size_l0: tuple[int, int] | None = None) -> Slide:
    """Return the image file, opened by the first reader that can.

    `mpp` is the project's own pixel size, which beats the file's. `size_l0` is the (width,
    height) that the project has for this image.

    Raises:
        SlideError: the file is missing, damaged, of an unsupported kind, or another image.
    """
    mark = _check_file(path)
    source = _open_source(path, size_l0)
    if size_l0 is not None and source.size_l0 != tuple(size_l0):
        source.close()
        raise SlideError(
            f"{path} is {_times(source.size_l0)} pixels, but the project has it as "
            f"{_times(size_l0)}: the file was replaced by another image; put the right one back, "
            "or add this one to the project anew"
        )
    return Slide(path, source, mpp, mark)


def check_mpp(mpp: Mpp | None, path: Path) -> Mpp:
    """Return a pixel size that can be true.

    Raises:
        PixelSizeError: there is none, or a microscope cannot have made it.
    """
    if mpp is None:
        raise PixelSizeError(f"{path} has no pixel size; {PIXEL_SIZE_REMEDY}{MPP_OPTION}")
    possible = all(math.isfinite(um) and FINEST_UM <= um <= COARSEST_UM for um in mpp)
    if not possible or max(mpp) > MOST_OBLONG * min(mpp):
        raise PixelSizeError(
            f"{path} has a pixel size of {mpp.x:g} x {mpp.y:g} um, which cannot be true; "
            f"{PIXEL_SIZE_REMEDY}"
        )
    return mpp


def _check_file(path: Path) -> FileMark:
    try:
        mark = FileMark.of(path)
        if path.is_dir():
            raise SlideError(f"{path} is a folder, not an image; {_advice_for_folder(path)}")
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise SlideError(
            f"{path} is not there: moved, renamed or deleted; put it back, or show"
            " QuPath its new place (open the project there)"
        ) from error
    except PermissionError as error:
        raise SlideError(f"{path} may not be read: allow this user to read it") from error
    except OSError as error:
        raise SlideError(f"{path} cannot be read: {error.strerror or error}") from error
    if mark.size == 0:
        raise SlideError(f"{path} is empty: copy it again from where it came")
    return mark


def _advice_for_folder(path: Path) -> str:
    dicom = sorted(path.glob("*.dcm"))
    return (
        f"for a DICOM slide name one of its files, as {dicom[0].name}" if dicom else "name a file"
    )


def _open_source(path: Path, size_l0: tuple[int, int] | None) -> PixelSource:
    said = []
    damaged = False
    for name, open_with in READERS:
        try:
            return open_with(path, size_l0)
        except UnsupportedError as error:
            raise SlideError(f"{path} {error}; {SUPPORTED}") from error
        except NotRecognisedError as error:
            said.append(f"{name}: {error}")
        except MemoryError:
            raise
        except Exception as error:  # readers raise anything at all on a damaged file
            damaged = True
            said.append(f"{name}: {_reason(error)}")
    verdict = "is damaged" if damaged else "is no image that can be read, or is damaged"
    raise SlideError(f"{path} {verdict}; copy it again, or convert it ({'; '.join(said)})")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into an error that names the file."""
    try:
        yield
    except (SlideError, MemoryError):
        raise
    except Exception as error:
        raise UndecodableError(
            f"{path} is damaged: a part of it cannot be decoded ({_reason(error)}); copy it again"
        ) from error


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
