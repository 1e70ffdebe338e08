"""Drawn slides: exact truth, repeatable, and different from seed to seed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from qupath_bridge.demo.drawing import GLAND_CLASSES, TISSUE_CLASSES, DemoSlide, draw_slide
from qupath_bridge.demo.layout import draw_shares
from qupath_bridge.demo.noise import enlarge, smooth_noise, stream
from qupath_bridge.demo.nuclei import Look, draw_nuclei, stamp
from qupath_bridge.errors import SettingsError

TUMOR, STROMA, IMMUNE, NECROSIS, OTHER = range(1, 6)


@pytest.fixture(scope="module")
def slides() -> list[DemoSlide]:
    return [draw_slide(seed, 480, 400, coverage=1.0) for seed in range(8)]


def test_the_same_seed_draws_the_same_slide_bit_for_bit(slides: list[DemoSlide]) -> None:
    again = draw_slide(3, 480, 400, coverage=1.0)
    assert np.array_equal(again.pixels, slides[3].pixels)
    assert np.array_equal(again.tissue, slides[3].tissue)
    assert np.array_equal(again.glands, slides[3].glands)


def test_another_seed_draws_another_slide_in_another_stain(slides: list[DemoSlide]) -> None:
    first, second = slides[0], slides[1]
    assert (first.tissue != second.tissue).mean() > 0.1
    stroma = [slide.pixels[slide.tissue == STROMA].mean(axis=0) for slide in (first, second)]
    assert np.abs(stroma[0] - stroma[1]).max() > 3


def test_pixels_and_truth_have_the_size_asked_for_and_known_codes() -> None:
    slide = draw_slide(5, 300, 257)
    assert slide.pixels.shape == (257, 300, 3) and slide.pixels.dtype == np.uint8
    assert slide.tissue.shape == slide.glands.shape == (257, 300)
    assert slide.tissue.dtype == slide.glands.dtype == np.uint8
    assert slide.tissue.max() < len(TISSUE_CLASSES) and slide.glands.max() < len(GLAND_CLASSES)


def test_glands_are_exactly_the_class_other(slides: list[DemoSlide]) -> None:
    for slide in slides:
        assert np.array_equal(slide.glands == 1, slide.tissue == OTHER)


def test_every_class_is_drawn_within_a_few_small_slides(slides: list[DemoSlide]) -> None:
    seen = {int(code) for slide in slides for code in np.unique(slide.tissue)}
    assert seen == {TUMOR, STROMA, IMMUNE, NECROSIS, OTHER}


def test_full_coverage_leaves_no_glass(slides: list[DemoSlide]) -> None:
    assert all((slide.tissue > 0).all() for slide in slides)


def test_coverage_is_the_share_of_tissue() -> None:
    covered = np.mean([(draw_slide(s, 384, 384, coverage=0.6).tissue > 0).mean() for s in range(3)])
    assert covered == pytest.approx(0.6, abs=0.08)


def test_glass_is_bright_and_tissue_is_not() -> None:
    slide = draw_slide(11, 384, 384, coverage=0.5)
    grey = slide.pixels.mean(axis=2)
    glass = ndimage.binary_erosion(slide.tissue == 0, iterations=6)
    assert grey[glass].min() > 200
    assert grey[slide.tissue > 0].mean() < grey[glass].mean() - 25


def test_stroma_is_paler_than_the_crowded_nuclei_of_tumour_and_immune_cells(
    slides: list[DemoSlide],
) -> None:
    compared = 0
    for slide in slides:
        count = np.bincount(slide.tissue.ravel(), minlength=6)
        if count[[TUMOR, STROMA, IMMUNE]].min() > 10_000:
            red = {c: slide.pixels[slide.tissue == c][:, 0].mean() for c in (1, 2, 3)}
            assert red[IMMUNE] < red[STROMA] and red[TUMOR] < red[STROMA]
            compared += 1
    assert compared > 0


def test_necrosis_keeps_a_rim_of_living_tumour(slides: list[DemoSlide]) -> None:
    for slide in slides:
        around = ndimage.binary_dilation(slide.tissue == NECROSIS, iterations=4)
        assert not (around & np.isin(slide.tissue, (STROMA, IMMUNE, 0))).any()


def test_shares_sum_to_one_and_a_slide_has_some_of_every_class() -> None:
    for seed in range(30):
        shares = draw_shares(stream(seed, "shares"), (4096, 4096))
        assert shares.sum() == pytest.approx(1) and shares.min() > 0.04


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"seed": -1}, "seed -1"),
        ({"seed": 1, "width": 200}, "200 x 4096"),
        ({"seed": 1, "coverage": 0.0}, "coverage 0.0"),
        ({"seed": 1, "coverage": 1.5}, "coverage 1.5"),
    ],
)
def test_what_cannot_be_drawn_is_named(arguments: dict[str, float], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        draw_slide(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("sigma", [1.3, 6.0, 30.0])
def test_smooth_noise_has_unit_variance_and_the_blur_asked_for(sigma: float) -> None:
    field = smooth_noise(stream(1, "test"), (1500, 1500), sigma)
    assert field.std() == pytest.approx(1, rel=0.15)
    lag = round(2 * sigma)  # the correlation at a distance d is exp(-d^2 / 4 sigma^2)
    expected = np.exp(-(lag**2) / (4 * sigma**2))
    seen = [(field[lag:] * field[:-lag]).mean(), (field[:, lag:] * field[:, :-lag]).mean()]
    assert np.mean(seen) == pytest.approx(expected, abs=0.12)


def test_enlarging_keeps_a_plane_a_plane() -> None:
    y, x = np.mgrid[0:11, 0:13].astype(np.float32)
    fine = enlarge(2 * x + 3 * y, 4, (40, 48))
    rows, cols = np.mgrid[0:40, 0:48]
    assert fine == pytest.approx((2 * cols + 3 * rows) / 4)


def test_nuclei_cover_the_area_of_their_ellipses_also_at_the_border() -> None:
    points = np.array([[30.0, 30.0], [70.4, 33.3], [0.0, 60.0]])
    look = Look((8.0, 0.0), (2.0, 2.0), (1.0, 0.0), bumps=0.0)
    dye, cover = np.zeros((90, 100), np.float32), np.zeros((90, 100), np.float32)
    stamp(draw_nuclei(stream(0, "n"), look, points), dye, cover, np.zeros_like(dye))
    assert cover.sum() == pytest.approx(2.5 * np.pi * 8 * 4, rel=0.12)
    assert dye.max() == pytest.approx(1.0, abs=1e-5) and cover.max() == 1
