from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from array_source import ArraySource
from hypothesis import given, settings
from hypothesis import strategies as st

from qupath_bridge.geometry import BoxL0, Mpp, Scale
from qupath_bridge.slide import Slide, open_slide
from qupath_bridge.slide.base import levels_of, on_white, true_downsamples
from qupath_bridge.slide.openslide_reader import bounds_of


def slide_of(*levels: np.ndarray, origin: tuple[int, int] = (0, 0)) -> Slide:
    return Slide(Path("memory"), ArraySource(*levels, origin=origin), None)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


NOISE = noise(400, 500)
SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[:400, :500], 200), 2).clip(0, 255).astype(np.uint8)


# --- exactness -------------------------------------------------------------------------------


@given(st.integers(-50, 480), st.integers(-50, 380), st.integers(1, 200), st.integers(1, 200))
def test_whole_pixels_at_their_own_size_come_bit_for_bit_and_white_outside(
    x: int, y: int, width: int, height: int
) -> None:
    shown = slide_of(NOISE).read(BoxL0(x, y, x + width, y + height), width, height)
    canvas = np.full((700, 800, 3), 255, np.uint8)
    canvas[100:500, 100:600] = NOISE
    assert np.array_equal(shown, canvas[100 + y : 100 + y + height, 100 + x : 100 + x + width])


@settings(deadline=None)
@given(
    scale_x=st.floats(0.4, 9),
    scale_y=st.floats(0.4, 9),
    corner=st.tuples(st.floats(-20, 300), st.floats(-20, 300)),
    tile=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_a_tile_is_the_crop_of_any_larger_read(
    scale_x: float, scale_y: float, corner: tuple[float, float], tile: tuple[int, int]
) -> None:
    slide, (x, y), (left, top) = slide_of(NOISE), corner, tile
    large = slide.read(BoxL0(x, y, x + 60 * scale_x, y + 50 * scale_y), 60, 50)
    x0, y0 = x + left * scale_x, y + top * scale_y
    small = slide.read(BoxL0(x0, y0, x0 + 30 * scale_x, y0 + 20 * scale_y), 30, 20)
    part = large[top : top + 20, left : left + 30]
    borderline = (small == 255).all(2) != (part == 255).all(2)  # centre on the image's very edge
    assert np.abs(small.astype(int) - part)[~borderline].max(initial=0) <= 1
    assert borderline.sum() <= 30 + 20


@settings(deadline=None)
@given(st.floats(0.6, 7), st.floats(20, 60), st.floats(20, 60))
def test_a_ramp_stays_where_it_is(scale: float, x: float, y: float) -> None:
    shown = slide_of(SMOOTH).read(BoxL0(x, y, x + 20 * scale, y + 20 * scale), 20, 20)
    rows, columns = (v + (np.arange(20) + 0.5) * scale - 0.5 for v in (y, x))
    assert np.abs(shown[..., 0] - rows[:, None]).max() <= 0.51
    assert np.abs(shown[..., 1] - columns[None]).max() <= 0.51


def test_a_flat_image_stays_flat_to_its_very_edge() -> None:
    flat = np.full((100, 130, 3), 37, np.uint8)
    shown = slide_of(flat).read(BoxL0(0, 0, 130, 100), 33, 25)
    assert (shown == 37).all()


def test_a_level_is_used_as_soon_as_it_is_fine_enough() -> None:
    full, half = np.full((400, 400, 3), 10, np.uint8), np.full((200, 200, 3), 20, np.uint8)
    slide = slide_of(full, half)
    for side, grey in [(201, 20), (200, 20), (199, 20), (203, 10), (400, 10), (50, 20)]:
        assert slide.read(BoxL0(0, 0, 400, 400), side, side).mean() == grey


def test_what_lies_beyond_the_bounds_is_not_mixed_in() -> None:
    pixels = np.full((300, 300, 3), 100, np.uint8)
    pixels[:50] = pixels[:, :40] = 0
    slide = slide_of(pixels, origin=(40, 50))
    assert (slide.width, slide.height) == (260, 250)
    shown = slide.read(BoxL0(-20, -20, 260, 250), 28, 27)
    assert (shown[:2] == 255).all()
    assert (shown[:, :2] == 255).all()
    assert (shown[2:, 2:] == 100).all()


def test_a_large_image_without_levels_is_read_in_bounded_parts() -> None:
    row = np.random.default_rng(0).integers(0, 256, 12_000, np.uint8)
    pixels = np.broadcast_to(row[None, :, None], (3_000, 12_000, 3))
    source = ArraySource(pixels)
    slide = Slide(Path("memory"), source, None)
    shown = slide.thumbnail(400)
    assert shown.shape == (100, 400, 3)
    assert source.largest_read <= 4096 * 4096
    strip = Slide(Path("memory"), ArraySource(pixels[:60]), None).read(
        BoxL0(0, 0, 12_000, 60), 400, 2
    )
    assert np.abs(shown[7].astype(int) - strip[0]).max() <= 1


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (3, 3)])
def test_a_thumbnail_keeps_the_shape_and_never_enlarges(size: tuple[int, int]) -> None:
    width, height = size
    shown = slide_of(noise(height, width)).thumbnail(100)
    assert shown.shape[:2] == (
        (1, 100) if width > height else (100, 1) if width < height else (3, 3)
    )


def test_nothing_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="nothing to read"):
        slide_of(NOISE).read(BoxL0(5, 5, 5, 10), 1, 1)


# --- levels ----------------------------------------------------------------------------------


@given(st.sampled_from([2, 3, 4, 8, 16, 32]), *[st.integers(1000, 200_000)] * 2, st.booleans())
def test_a_whole_factor_is_found_again_whichever_way_sizes_were_rounded(
    factor: int, width: int, height: int, up: bool
) -> None:
    level = [-(-n // factor) if up else n // factor for n in (width, height)]
    assert true_downsamples((width, height), (level[0], level[1])) == (factor, factor)


@given(st.integers(2, 40), *[st.integers(500, 200_000)] * 2, st.booleans())
def test_the_far_corner_of_a_level_is_never_off_by_more_than_rounding(
    factor: int, width: int, height: int, up: bool
) -> None:
    level = [-(-n // factor) if up else n // factor for n in (width, height)]
    found = true_downsamples((width, height), (level[0], level[1]))
    for full, downsample in zip((width, height), found, strict=True):
        assert abs(full / downsample - full / factor) < 2


def test_a_short_side_does_not_spoil_the_factor() -> None:
    assert true_downsamples((100_001, 513), (391, 3)) == (256, 256)


def test_a_broken_factor_is_taken_as_it_is() -> None:
    x, y = true_downsamples((10_000, 5_000), (4_333, 2_166))
    assert (x, y) == pytest.approx((10_000 / 4_333, 5_000 / 2_166))


def test_pictures_that_are_no_level_are_left_out() -> None:
    sizes = [(8000, 4000), (2000, 1000), (2000, 1000), (500, 500), (500, 250), (0, 1)]
    assert [level.index for level in levels_of(sizes)] == [0, 1, 4]


# --- bounds ----------------------------------------------------------------------------------


def bounds(x: str, y: str, width: str, height: str) -> dict[str, str]:
    values = zip(("x", "y", "width", "height"), (x, y, width, height), strict=True)
    return {f"openslide.bounds-{name}": value for name, value in values}


def test_bounds_count_only_if_all_four_are_whole_numbers() -> None:
    full = (1000, 800)
    assert bounds_of(bounds("10", "20", "300", "400"), full) == (10, 20, 300, 400)
    assert bounds_of(bounds("10", "20", "300", "4e2"), full) == (0, 0, 1000, 800)
    assert bounds_of({"openslide.bounds-x": "10"}, full) == (0, 0, 1000, 800)


def test_alpha_is_laid_on_white() -> None:
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 100, 200, 128]]], np.uint8)
    assert on_white(rgba).tolist() == [[[255, 255, 255], [10, 20, 30], [127, 177, 227]]]


# --- a point at the far corner of a long slide -----------------------------------------------

WIDTH, HEIGHT = 100_003, 515
DOT = (99_912.0, 474.0)  # centre of a 12 x 12 dot


def dotted_level(factor: int) -> np.ndarray:
    """Return the slide's level at 1 : factor: white, with one black dot near the far corner."""
    size = 16 * 12
    corner = np.full((size, size), 255, float)
    # A patch whose corner falls on whole pixels of every level, then averaged down.
    left, top = (int(DOT[0]) // size * size, int(DOT[1]) // size * size)
    x, y = int(DOT[0]) - left, int(DOT[1]) - top
    corner[y - 6 : y + 6, x - 6 : x + 6] = 0
    small = corner.reshape(size // factor, factor, size // factor, factor).mean((1, 3))
    level = np.full((HEIGHT // factor, WIDTH // factor, 3), 255, np.uint8)
    patch = level[top // factor :, left // factor :][: size // factor, : size // factor]
    patch[:] = np.rint(small)[: patch.shape[0], : patch.shape[1], None]
    return level


@pytest.fixture(scope="module", params=["openslide", "tifffile"])
def long_slide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a slide of 100,003 x 515 pixels with levels at 4 and 16, their sizes rounded down."""
    path = tmp_path_factory.mktemp("long") / "long.tif"
    with tifffile.TiffWriter(path, ome=request.param == "tifffile") as writer:
        for factor in (1, 4, 16):
            extra = {"subfiletype": 1} if factor > 1 else {}
            if factor == 1 and request.param == "tifffile":
                extra = {"subifds": 2}
            writer.write(
                dotted_level(factor), photometric="rgb", tile=(256, 256), compression="zlib",
                compressionargs={"level": 1}, **extra,
            )  # fmt: skip
    return path


@pytest.mark.parametrize("mpp", [Mpp(0.2519, 0.2493), Mpp(0.5, 0.5), Mpp(0.124, 0.127)])
@pytest.mark.parametrize("model_mpp", [0.5, 1.0, 3.97])
def test_a_point_at_the_far_corner_is_within_a_model_pixel_of_its_place(
    long_slide: Path, mpp: Mpp, model_mpp: float
) -> None:
    scale = Scale.between(mpp, model_mpp)
    x_m, y_m = DOT[0] / scale.x, DOT[1] / scale.y
    left, top = int(x_m) - 40, int(y_m) - 40
    with open_slide(long_slide, mpp) as slide:
        assert [level.downsample_x for level in slide.levels] == [1, 4, 16]
        assert [level.downsample_y for level in slide.levels] == [1, 4, 16]
        shown = slide.read(scale.box_l0(left, top, 64, 64), 64, 64)
    ink = 255.0 - shown.mean(2)
    ink[np.add.outer(np.arange(64) + top, np.zeros(64)) * scale.y >= HEIGHT - 1] = 0
    rows, columns = np.indices(ink.shape) + 0.5
    found = left + np.average(columns, weights=ink), top + np.average(rows, weights=ink)
    assert found == pytest.approx((x_m, y_m), abs=0.25)


def test_a_level_that_openslide_has_a_broken_downsample_for_stays_in_place(
    shared_data: Path,
) -> None:
    """Level 1 is 2221 pixels wide for 4443: OpenSlide itself takes 2.0005 for its downsample."""
    path = shared_data / "slides" / "tcga-cr-7395-01a-01-ts1.svs"
    with open_slide(path, Mpp(0.25, 0.25)) as slide:
        fine = slide.read(BoxL0(3800, 1000, 4200, 1400), 400, 400).astype(int)
        coarse = slide.read(BoxL0(3800, 1000, 4200, 1400), 200, 200).astype(int)
    halved = fine.reshape(200, 2, 200, 2, 3).mean((1, 3, 4))
    dy, dx = np.gradient(halved)
    slopes = np.stack([dx.ravel(), dy.ravel(), np.ones(dx.size)], 1)
    shift, *_ = np.linalg.lstsq(slopes, (coarse.mean(2) - halved).ravel(), rcond=None)
    assert np.abs(shift[:2]).max() < 0.3
