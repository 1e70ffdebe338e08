from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from qupath_bridge.demo.drawing import draw_slide
from qupath_bridge.errors import SlideError
from qupath_bridge.geometry import BoxL0, Mpp
from qupath_bridge.slide import open_slide
from qupath_bridge.slide.jpeg_tiles import JpegTileSource, tiled_levels
from qupath_bridge.slide.openslide_reader import OpenSlideSource, open_with_openslide

SIZES = [(900, 700), (450, 350), (112, 87)]
PIXELS = draw_slide(1, *SIZES[0], coverage=1.0).pixels
WAYS: dict[str, dict[str, Any]] = {
    "rgb": {"photometric": "rgb"},
    "ycbcr-444": {"photometric": "ycbcr", "subsampling": (1, 1)},
    "ycbcr-422": {"photometric": "ycbcr", "subsampling": (2, 1)},
    "ycbcr-420": {"photometric": "ycbcr", "subsampling": (2, 2)},
    "oblong": {"photometric": "ycbcr", "tile": (128, 240)},
    "bigtiff": {"photometric": "rgb", "bigtiff": True},
    "aperio": {"photometric": "rgb", "description": "Aperio Image Library v1\r\n|MPP = 0.25"},
}


def write(path: Path, **how: Any) -> Path:
    """Write `PIXELS` and two smaller levels as JPEG tiles, or as `how` says."""
    description = how.pop("description", None)
    options = {"tile": (256, 256), "compression": "jpeg", "metadata": None, **how}
    bigtiff = options.pop("bigtiff", False)
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as writer:
        for index, (width, height) in enumerate(SIZES):
            step = SIZES[0][0] // width
            level = PIXELS[: height * step : step, : width * step : step]
            kind = 1 if index and not description else 0
            writer.write(level, subfiletype=kind, description=description, **options)
    return path


@pytest.fixture(scope="module", params=WAYS)
def slide_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("jpeg") / "a.tif", **WAYS[request.param])


def by_openslide(path: Path, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        corner = (
            round(x * slide.level_downsamples[level]),
            round(y * slide.level_downsamples[level]),
        )
        return np.asarray(slide.read_region(corner, level, (width, height)).convert("RGB"))


# --- the very pixels that OpenSlide shows ----------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(where=st.tuples(*[st.floats(0, 1)] * 4), level=st.integers(0, 1))
def test_any_part_is_what_openslide_shows(slide_path: Path, where, level: int) -> None:
    source = open_with_openslide(slide_path, None)
    assert isinstance(source, JpegTileSource)
    assert source.level_sizes[:2] == SIZES[:2]
    (x, right), (y, bottom) = (
        sorted(round(part * size) for part in parts)
        for parts, size in zip((where[:2], where[2:]), SIZES[level], strict=True)
    )
    if x < right and y < bottom:
        box = level, x, y, right - x, bottom - y
        assert np.array_equal(source.read_level(*box), by_openslide(slide_path, *box))
    source.close()


def test_a_level_with_a_broken_downsample_is_in_its_place(slide_path: Path) -> None:
    """112 x 87 of 900 x 700: OpenSlide is right for the whole level, from its corner."""
    source = open_with_openslide(slide_path, None)
    shown = source.read_level(2, 0, 0, *SIZES[2])
    assert np.array_equal(shown, by_openslide(slide_path, 2, 0, 0, *SIZES[2]))
    assert np.array_equal(source.read_level(2, 50, 30, 40, 20), shown[30:50, 50:90])
    source.close()


def test_a_real_slide_is_what_openslide_shows(shared_data: Path) -> None:
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    source = open_with_openslide(path, None)
    assert isinstance(source, JpegTileSource)
    assert source.mpp == Mpp(0.499, 0.499)
    (width, height), *_ = source.level_sizes
    assert np.array_equal(
        source.read_level(0, 0, 0, width, height), by_openslide(path, 0, 0, 0, width, height)
    )
    source.close()


def test_threads_read_what_one_reads(slide_path: Path) -> None:
    boxes = [(x, y, 200, 150) for x in range(0, 700, 90) for y in range(0, 550, 90)]
    source = open_with_openslide(slide_path, None)
    alone = [source.read_level(0, *box) for box in boxes]
    source.close()
    source = open_with_openslide(slide_path, None)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda box: source.read_level(0, *box), boxes))
    source.close()
    assert all(map(np.array_equal, alone, together))


def test_a_system_without_positional_reads_shows_the_same(
    slide_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pread")
    test_threads_read_what_one_reads(slide_path)


# --- what is left to OpenSlide ---------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        {"photometric": "rgb", "compression": "zlib"},
        {"photometric": "rgb", "compression": "lzw"},
        {"photometric": "rgb", "compression": None},
    ],
    ids=["deflate", "lzw", "raw"],
)
def test_tiles_of_another_kind_are_left_to_openslide(tmp_path: Path, how: dict[str, Any]) -> None:
    path = write(tmp_path / "a.tif", **how)
    source = open_with_openslide(path, None)
    assert isinstance(source, OpenSlideSource)
    source.close()


def test_jpeg_2000_is_left_to_openslide(shared_data: Path) -> None:
    path = shared_data / "slides" / "tcga-cr-7395-01a-01-ts1.svs"
    source = open_with_openslide(path, None)
    assert isinstance(source, OpenSlideSource)
    source.close()


def test_tiles_never_written_are_left_to_openslide(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", photometric="rgb")
    with tifffile.TiffFile(path, mode="r+b") as tif:
        counts = tif.pages.first.tags["TileByteCounts"]
        counts.overwrite([0, *counts.value[1:]])
    source = open_with_openslide(path, None)
    assert isinstance(source, OpenSlideSource)
    source.close()


def test_two_pages_of_one_size_are_not_guessed_between(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for append in (False, True):
        tifffile.imwrite(
            path, PIXELS, photometric="rgb", tile=(256, 256), compression="jpeg",
            metadata=None, append=append,
        )  # fmt: skip
    assert tiled_levels(path, [SIZES[0]]) is None


def test_what_is_no_tiff_has_no_levels(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0 no more")
    assert tiled_levels(tmp_path / "a.tif", [SIZES[0]]) is None
    assert tiled_levels(tmp_path / "none.tif", [SIZES[0]]) is None


# --- trouble ---------------------------------------------------------------------------------


def spoil(path: Path, index: int) -> None:
    """Fill a tile of the first level with zeros."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        offset, count = page.dataoffsets[index], page.databytecounts[index]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))


def test_a_spoilt_tile_fails_where_it_is_and_nowhere_else(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", photometric="rgb")
    sound = by_openslide(path, 0, 256, 0, 600, 700)
    spoil(path, 0)
    with open_slide(path, Mpp(0.5, 0.5)) as slide:
        for _ in range(2):
            with pytest.raises(SlideError, match=r"a\.tif is damaged: a part of it"):
                slide.read(BoxL0(200, 200, 300, 300), 100, 100)
        assert np.array_equal(slide.read(BoxL0(256, 0, 856, 700), 600, 700), sound)


def test_a_slide_that_shrinks_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", photometric="rgb")
    with open_slide(path, Mpp(0.5, 0.5)) as slide:
        os.truncate(path, 5000)
        with pytest.raises(SlideError, match=r"a\.tif .*ends \d+ bytes before a tile does"):
            slide.read(BoxL0(600, 500, 900, 700), 300, 200)


def test_a_tile_of_another_size_than_said_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", photometric="rgb")
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for page in tif.pages:
            page.tags["TileWidth"].overwrite(272)  # as many tiles across as of 256
    with open_slide(path, Mpp(0.5, 0.5)) as slide, pytest.raises(SlideError, match="272 x 256"):
        slide.read(BoxL0(0, 0, 100, 100), 100, 100)
