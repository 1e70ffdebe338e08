from __future__ import annotations

import os
import shutil
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from array_source import ArraySource
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import box

from qupath_bridge.engine.source import HEIGHT_M, WIDTH_M, PixelBatch, TileSource, default_threads
from qupath_bridge.errors import SlideError, UndecodableError
from qupath_bridge.geometry import BoxL0, Mpp, Scale
from qupath_bridge.slide import Slide, open_slide
from qupath_bridge.tiles import Tile, TilePlan, tiles_of

TILE = 256
MPP = Mpp(0.5, 0.5)
WHOLE = Scale(1, 1)


class CountedSource(ArraySource):
    """Counts how often each pixel of level 0 is read."""

    def __init__(self, *levels: np.ndarray, origin: tuple[int, int] = (0, 0)) -> None:
        super().__init__(*levels, origin=origin)
        self.times_read = np.zeros(levels[0].shape[:2], np.uint8)

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        if level == 0:
            self.times_read[y : y + height, x : x + width] += 1
        return super().read_level(level, x, y, width, height)


def smooth_noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    return np.repeat(np.repeat(coarse, 8, 0), 8, 1)[:height, :width].astype(np.uint8)


PIXELS = smooth_noise(1500, 1300)


def tiles_over(slide: Slide, scale: Scale, stride: int = 128) -> list[Tile]:
    width, height = slide.width / scale.x, slide.height / scale.y
    return tiles_of(box(0, 0, width, height), TilePlan(TILE, stride, 16, 2))


def batched(tiles: Sequence[Tile], size: int = 5) -> Iterator[Sequence[Tile]]:
    return (tiles[start : start + size] for start in range(0, len(tiles), size))


def read_all(slide: Slide, tiles: Sequence[Tile], scale: Scale = WHOLE) -> list[PixelBatch]:
    with TileSource(slide, scale, TILE, 2) as source:
        return list(source.read_ahead(batched(tiles)))


def by_itself(slide: Slide, tile: Tile, scale: Scale = WHOLE) -> np.ndarray:
    return slide.read(scale.box_l0(tile.x_m, tile.y_m, TILE, TILE), TILE, TILE)


def read_and_most_held(slide: Slide, tiles: Sequence[Tile]) -> tuple[int, int]:
    """Return how many tiles were read, one batch after the other, and the most bytes held."""
    tracemalloc.start()
    try:
        with TileSource(slide, WHOLE, TILE, 2) as source:
            read = sum(len(batch.tiles) for batch in source.read_ahead(batched(tiles)))
        return read, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def decoding_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("decode", "cut"))]


# --- the same pixels, once -------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(
    origin=st.tuples(st.integers(0, 90), st.integers(0, 90)),
    factor=st.sampled_from([1, 2, 4]),
    corners=st.lists(
        st.tuples(st.integers(-300, 1400), st.integers(-300, 1600)), min_size=1, max_size=8
    ),
)
def test_a_tile_cut_out_of_blocks_is_bit_for_bit_the_tile_read_by_itself(
    origin: tuple[int, int], factor: int, corners: list[tuple[int, int]]
) -> None:
    slide = Slide(Path("memory"), ArraySource(PIXELS, origin=origin), None)
    scale = Scale(factor, factor)
    tiles = sorted({Tile(x, y) for x, y in corners}, key=lambda tile: (tile.y_m, tile.x_m))
    found = read_all(slide, tiles, scale)
    assert [tile for batch in found for tile in batch.tiles] == tiles
    for batch in found:
        for tile, pixels in zip(batch.tiles, batch.pixels, strict=True):
            assert np.array_equal(pixels, by_itself(slide, tile, scale))


@settings(deadline=None, max_examples=15)
@given(
    scales=st.tuples(st.floats(0.7, 5), st.floats(0.7, 5)),
    origin=st.tuples(st.integers(0, 90), st.integers(0, 90)),
    corner=st.tuples(st.integers(-200, 900), st.integers(-200, 900)),
)
def test_at_an_odd_scale_only_rounding_tells_it_from_the_tile_read_by_itself(
    scales: tuple[float, float], origin: tuple[int, int], corner: tuple[int, int]
) -> None:
    """Pillow takes a box in float32, whose last digit depends on where the read begins."""
    slide = Slide(Path("memory"), ArraySource(PIXELS, origin=origin), None)
    scale, tile = Scale(*scales), Tile(*corner)
    (batch,) = read_all(slide, [tile], scale)
    alone = by_itself(slide, tile, scale)
    rim = (alone == 255).all(2) != (batch.pixels[0] == 255).all(2)  # centre on the very border
    difference = np.abs(alone.astype(int) - batch.pixels[0])[~rim]
    assert difference.max(initial=0) <= 1
    assert (difference > 0).mean() < 0.02
    assert rim.sum() <= 2 * TILE


@pytest.mark.parametrize("scale", [Scale(1.985, 2.013), Scale(0.93, 1.21)])
def test_what_a_pixel_shows_does_not_depend_on_tile_region_or_batch(scale: Scale) -> None:
    slide = Slide(Path("memory"), ArraySource(PIXELS), None)
    all_tiles = tiles_over(slide, scale)
    canvas: dict[tuple[int, int], bytes] = {}
    for tiles in (all_tiles, all_tiles[1::3], all_tiles[-2:]):
        for batch in read_all(slide, tiles, scale):
            for tile, pixels in zip(batch.tiles, batch.pixels, strict=True):
                for y in range(0, TILE, 64):
                    for x in range(0, TILE, 64):
                        shown = pixels[y : y + 64, x : x + 64].tobytes()
                        place = tile.x_m + x, tile.y_m + y
                        assert canvas.setdefault(place, shown) == shown


def test_every_pixel_is_read_once_although_tiles_overlap() -> None:
    source = CountedSource(PIXELS)
    slide = Slide(Path("memory"), source, None)
    read_all(slide, tiles_over(slide, WHOLE, 64))
    assert (source.times_read == 1).all()


def test_what_no_tile_touches_is_not_read() -> None:
    source = CountedSource(PIXELS)
    slide = Slide(Path("memory"), source, None)
    read_all(slide, [Tile(0, 0), Tile(1024, 1024)])
    assert source.times_read[:HEIGHT_M, :WIDTH_M].all()
    assert source.times_read[1024 : 1024 + TILE, 1024:].all()
    read = HEIGHT_M * WIDTH_M + min(HEIGHT_M, 1500 - 1024) * (1300 - 1024)
    assert source.times_read.sum(dtype=int) == read


def test_a_batch_may_be_empty_and_there_may_be_none() -> None:
    slide = Slide(Path("memory"), ArraySource(PIXELS), None)
    with TileSource(slide, WHOLE, TILE) as source:
        assert list(source.read_ahead([])) == []
        (batch,) = source.read_ahead([[]])
        assert batch.pixels.shape == (0, TILE, TILE, 3)


# --- bounds ----------------------------------------------------------------------------------


def test_decoding_does_not_run_away_from_who_uses_it() -> None:
    class Endless(ArraySource):
        blocks = 0

        def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
            self.blocks += 1
            return self._levels[0][:height, :width]

    endless = Endless(np.broadcast_to(np.uint8(7), (WIDTH_M, 100_000, 3)))
    slide = Slide(Path("memory"), endless, None)
    tiles = [Tile(x, 0) for x in range(0, 100_000, WIDTH_M)]
    with TileSource(slide, WHOLE, TILE, 2) as source:
        batches = source.read_ahead(batched(tiles, 4))
        next(batches)
        # All that may be decoded is, before it is counted.
        source._decoders.submit(lambda: None).result()
        assert 4 < endless.blocks < 100


def test_blocks_that_were_passed_are_forgotten() -> None:
    tall = ArraySource(np.broadcast_to(np.uint8(7), (100_000, 2 * WIDTH_M, 3)))
    slide = Slide(Path("memory"), tall, None)
    tiles = tiles_over(slide, WHOLE, 224)
    read, peak = read_and_most_held(slide, tiles)
    assert read == len(tiles) > 1000
    assert peak < 100e6 < 100_000 * 2 * WIDTH_M * 3 / 3


def test_islands_side_by_side_are_read_one_after_the_other_and_forgotten() -> None:
    wide = CountedSource(np.broadcast_to(np.uint8(7), (1024, 60_000, 3)))
    slide = Slide(Path("memory"), wide, None)
    columns = range(0, 60_000 - TILE, 2 * WIDTH_M)
    tiles = [Tile(x, y) for x in columns for y in range(0, 1024 - TILE + 1, 128)]
    read, peak = read_and_most_held(slide, tiles)
    assert read == len(tiles) > 400
    assert wide.times_read.max() == 1  # by the islands' own tiles, each pixel once
    assert peak < 70e6 < wide.times_read.sum(dtype=int) * 3 * 0.8


def test_there_is_a_thread_for_each_core_but_never_more_than_eight() -> None:
    assert 1 <= default_threads() <= 8


# --- threads end -----------------------------------------------------------------------------


def test_threads_have_ended_when_the_source_is_closed_in_the_middle() -> None:
    slide = Slide(Path("memory"), ArraySource(PIXELS), None)
    with TileSource(slide, WHOLE, TILE, 3) as source:
        next(source.read_ahead(batched(tiles_over(slide, WHOLE))))
        assert decoding_threads()
    assert not decoding_threads()


@pytest.mark.timeout(60)
def test_an_error_of_who_uses_the_tiles_comes_through_and_leaves_no_thread() -> None:
    slide = Slide(Path("memory"), ArraySource(PIXELS), None)
    with (
        pytest.raises(ZeroDivisionError),
        TileSource(slide, WHOLE, TILE, 2) as source,
    ):
        for _ in source.read_ahead(batched(tiles_over(slide, WHOLE))):
            _ = 1 / 0
    assert not decoding_threads()


@pytest.mark.timeout(60)
def test_an_error_in_a_decoding_thread_comes_through_and_leaves_no_thread() -> None:
    class Broken(ArraySource):
        def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
            raise MemoryError("no memory left")

    slide = Slide(Path("memory"), Broken(PIXELS), None)
    with pytest.raises(MemoryError, match="no memory left"):
        read_all(slide, tiles_over(slide, WHOLE))
    assert not decoding_threads()


# --- what does not decode --------------------------------------------------------------------


READERS: dict[str, dict[str, object]] = {
    "OpenSlideSource": {"compression": "zlib"},
    "JpegTileSource": {"compression": "jpeg"},
    "TiffSource": {"compression": "jpeg", "ome": True},
}


def write_tiff(path: Path, reader: str) -> Path:
    """Write a TIFF that a reader is the one for."""
    tifffile.imwrite(
        path, PIXELS, tile=(128, 128), photometric="rgb", **READERS[reader],
        resolution=(2e4, 2e4), resolutionunit=3,
    )  # fmt: skip
    return path


def overwrite_stored_tile(path: Path, index: int) -> None:
    """Fill the bytes of a stored tile of the first page with nonsense; its time stays."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        offset, count = page.dataoffsets[index], page.databytecounts[index]
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x07" * count)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def touched(tiles: Sequence[Tile], x: int, y: int, side: int) -> set[Tile]:
    """Return the tiles that share a pixel with a square."""
    return {
        tile
        for tile in tiles
        if tile.x_m < x + side and x < tile.x_m + TILE
        if tile.y_m < y + side and y < tile.y_m + TILE
    }


@pytest.mark.parametrize("reader", READERS)
def test_tiles_with_damaged_pixels_are_told_and_white_and_all_others_as_ever(
    tmp_path: Path, reader: str
) -> None:
    path = write_tiff(tmp_path / "a.tif", reader)
    with open_slide(path, MPP) as slide:
        assert type(slide._source).__name__ == reader
        tiles = tiles_over(slide, WHOLE)
        whole = {tile: by_itself(slide, tile) for tile in tiles}
    across = -(-PIXELS.shape[1] // 128)
    overwrite_stored_tile(path, 5 * across + 3)  # at x 384, y 640
    with open_slide(path, MPP) as slide:
        found = read_all(slide, tiles)
    bad = touched(tiles, 384, 640, 128)
    assert 0 < len(bad) < len(tiles) / 4
    assert {tile for batch in found for tile in batch.undecodable} == bad
    for batch in found:
        for tile, pixels in zip(batch.tiles, batch.pixels, strict=True):
            assert np.array_equal(pixels, np.full_like(pixels, 255) if tile in bad else whole[tile])


def test_a_damaged_real_slide_loses_only_the_tiles_that_are_damaged(
    shared_data: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copyfile(shared_data / "slides/CMU-1-Small-Region.svs", tmp_path / "a.svs"))
    with open_slide(path) as slide:
        tiles = tiles_over(slide, WHOLE)
        whole = {tile: by_itself(slide, tile) for tile in tiles}
    overwrite_stored_tile(path, 4 * 10 + 6)  # 240 px stored tiles, ten across
    with open_slide(path) as slide:
        found = read_all(slide, tiles)
    bad = touched(tiles, 6 * 240, 4 * 240, 240)
    assert bad
    assert {tile for batch in found for tile in batch.undecodable} == bad
    for batch in found:
        for tile, pixels in zip(batch.tiles, batch.pixels, strict=True):
            assert tile in bad or np.array_equal(pixels, whole[tile])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("reader", READERS)
def test_many_threads_and_many_damaged_parts_spoil_no_sound_one(
    tmp_path: Path, reader: str
) -> None:
    path = write_tiff(tmp_path / "a.tif", reader)
    across = -(-PIXELS.shape[1] // 128)
    damaged = {(2, 2), (3, 7), (7, 1), (7, 8), (10, 5)}
    for row, column in damaged:
        overwrite_stored_tile(path, row * across + column)
    with open_slide(path, MPP) as slide:
        tiles = tiles_over(slide, WHOLE)
        bad = {t for r, c in damaged for t in touched(tiles, c * 128, r * 128, 128)}
        for _ in range(3):
            with TileSource(slide, WHOLE, TILE, 8) as source:
                found = list(source.read_ahead(batched(tiles)))
            assert {tile for batch in found for tile in batch.undecodable} == bad


def test_a_damaged_png_is_decoded_once_only(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with open_slide(tmp_path / "a.png", MPP) as slide:
        tiles = tiles_over(slide, WHOLE)
        found = read_all(slide, tiles)
        with pytest.raises(UndecodableError, match="damaged"):
            by_itself(slide, tiles[0])
    assert {tile for batch in found for tile in batch.undecodable} == set(tiles)


# --- a file that changes ---------------------------------------------------------------------


def remove(path: Path) -> None:
    path.unlink()


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def write_anew(path: Path) -> None:
    beside = path.with_name("beside")
    shutil.copyfile(path, beside)
    os.utime(beside, ns=(1, 1))
    beside.replace(path)  # at once: never empty


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (remove, "was removed while"),
        (shrink, "was changed from .* bytes while"),
        (write_anew, "was changed while"),
    ],
)
@pytest.mark.parametrize("reader", READERS)
def test_a_slide_that_changes_while_it_is_read_ends_it_at_once(
    tmp_path: Path, change, said: str, reader: str
) -> None:
    path = write_tiff(tmp_path / "a.tif", reader)
    with open_slide(path, MPP) as slide, TileSource(slide, WHOLE, TILE, 2) as source:
        batches = source.read_ahead(batched(tiles_over(slide, WHOLE)))
        next(batches)
        change(path)
        what = rf"a\.tif {said}.*put it back and run again; what was finished is kept"
        with pytest.raises(SlideError, match=what):
            [next(batches) for _ in range(3)]  # one batch may have been ready
    assert not decoding_threads()


def test_a_read_after_a_damaged_part_gives_the_sound_part(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", "JpegTileSource")
    with open_slide(path, MPP) as slide:
        sound = slide.read(BoxL0(640, 640, 768, 768), 128, 128)
    overwrite_stored_tile(path, 0)
    with open_slide(path, MPP) as slide:
        with pytest.raises(UndecodableError, match=r"a\.tif is damaged: a part of it cannot"):
            slide.read(BoxL0(0, 0, 128, 128), 128, 128)
        assert np.array_equal(slide.read(BoxL0(640, 640, 768, 768), 128, 128), sound)
