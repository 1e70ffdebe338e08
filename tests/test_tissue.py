from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from qupath_bridge.tissue import (
    MAX_MASK_PIXELS,
    TissueSettings,
    _labelled,
    mask_mpp,
    otsu_threshold,
    tissue_mask,
)

GLASS = (243, 241, 244)
EOSIN = (224, 160, 190)
HAEMATOXYLIN = (110, 80, 150)
BLUE_HAEMATOXYLIN = (96, 96, 160)
BLOOD = (190, 60, 70)
INKS = {
    "black": (35, 34, 38),
    "blue": (30, 60, 160),
    "green": (20, 120, 70),
    "grey": (150, 149, 151),
}
MARGIN_PX = TissueSettings.margin_um / TissueSettings.mpp


def glass(height: int = 200, width: int = 240, colour: tuple[int, int, int] = GLASS) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 2, (height, width, 3))
    return (np.array(colour) + noise).clip(0, 255).astype(np.uint8)


def painted(
    rgb: np.ndarray, shape: tuple[int, int, int, int], colour: tuple[int, int, int]
) -> np.ndarray:
    """Return the picture with an ellipse in it, as if of texture, and leave the given one alone."""
    image = Image.fromarray(rgb.copy())
    ImageDraw.Draw(image).ellipse(shape, fill=colour)
    noise = np.random.default_rng(2).normal(0, 6, rgb.shape)
    changed = (np.asarray(image) != rgb).any(2, keepdims=True)
    return np.where(changed, (np.asarray(image) + noise).clip(0, 255), rgb).astype(np.uint8)


@pytest.mark.parametrize("colour", [EOSIN, HAEMATOXYLIN, BLUE_HAEMATOXYLIN, BLOOD])
@pytest.mark.parametrize("ground", [GLASS, (255, 255, 255), (228, 226, 214), (222, 220, 228)])
def test_tissue_is_found_with_a_margin_and_glass_is_not(
    colour: tuple[int, int, int], ground: tuple[int, int, int]
) -> None:
    rgb = painted(glass(colour=ground), (60, 50, 160, 130), colour)
    truth = painted(np.zeros_like(rgb), (60, 50, 160, 130), (200, 200, 200)).any(2)
    mask = tissue_mask(rgb)
    assert mask.dtype == bool
    assert mask[truth].all()
    distance = ndimage.distance_transform_edt(~truth)
    assert not mask[distance > MARGIN_PX + 2].any()
    assert mask[distance < MARGIN_PX - 1].all()


@pytest.mark.parametrize("ground", [GLASS, (255, 255, 255), (228, 226, 214), (190, 189, 191)])
def test_glass_alone_has_no_tissue(ground: tuple[int, int, int]) -> None:
    assert not tissue_mask(glass(colour=ground)).any()


@pytest.mark.parametrize("colour", [EOSIN, HAEMATOXYLIN, (235, 205, 222)])
def test_an_image_of_tissue_alone_is_all_tissue(colour: tuple[int, int, int]) -> None:
    assert tissue_mask(glass(colour=colour)).all()


def test_pale_and_dark_tissue_are_both_tissue() -> None:
    rgb = painted(
        painted(glass(), (30, 50, 110, 150), HAEMATOXYLIN), (130, 50, 210, 150), (230, 200, 218)
    )
    mask = tissue_mask(rgb)
    assert mask[100, 70]
    assert mask[100, 170]


@pytest.mark.parametrize("ink", INKS)
def test_ink_dust_and_shadow_are_not_tissue(ink: str) -> None:
    rgb = painted(painted(glass(), (20, 20, 90, 90), HAEMATOXYLIN), (140, 120, 230, 190), INKS[ink])
    mask = tissue_mask(rgb)
    assert mask[55, 55]
    assert not mask[125:185, 150:220].any()


def test_specks_go_and_small_holes_are_filled() -> None:
    rgb = painted(glass(), (40, 40, 160, 160), EOSIN)
    rgb = painted(rgb, (90, 90, 105, 105), GLASS)
    rgb = painted(rgb, (210, 100, 214, 104), HAEMATOXYLIN)
    mask = tissue_mask(rgb)
    assert mask[97, 97]
    assert not mask[102, 212]


def test_a_large_hole_and_open_glass_at_the_rim_stay_open() -> None:
    ring = painted(painted(glass(), (20, 20, 220, 180), EOSIN), (60, 50, 180, 150), GLASS)
    assert not tissue_mask(ring)[100, 120]
    corner = glass(colour=EOSIN)
    corner[-30:, :30] = glass(30, 30)
    assert not tissue_mask(corner)[-8:, :8].any()


def test_fat_between_tissue_is_kept() -> None:
    rgb = painted(glass(), (20, 20, 220, 180), EOSIN)
    y, x = np.indices(rgb.shape[:2])
    fat = ((x - 120) ** 2 + (y - 100) ** 2 < 55**2) & (x % 8 > 0) & (y % 8 > 0)
    rgb[fat] = glass()[fat]
    assert tissue_mask(rgb)[100 - 50 : 100 + 50, 100:140].all()


def test_no_pixel_or_one_is_no_trouble() -> None:
    assert tissue_mask(np.full((1, 1, 3), 250, np.uint8)).tolist() == [[False]]
    assert tissue_mask(np.full((1, 40, 3), EOSIN, np.uint8), mpp=60).all()


def test_otsu_parts_two_heaps_between_them() -> None:
    rng = np.random.default_rng(3)
    heaps = np.concatenate([rng.normal(0.1, 0.02, 5000), rng.normal(0.6, 0.05, 1000)])
    assert 0.15 < otsu_threshold(heaps) < 0.5


def test_a_huge_slide_gets_a_coarser_mask() -> None:
    assert mask_mpp(20_000, 20_000, 8.0) == 8.0
    mpp = mask_mpp(100_000, 60_000, 8.0)
    assert 100_000 / mpp * 60_000 / mpp == pytest.approx(MAX_MASK_PIXELS)


@pytest.mark.parametrize("kind", ["ADI", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"])
def test_real_tissue_of_every_kind_is_tissue(shared_data: Path, kind: str) -> None:
    tiles = sorted((shared_data / "tiles" / "nct_crc" / kind).iterdir())[:9]
    small = [np.asarray(Image.open(tile).convert("RGB").reduce(16)) for tile in tiles]
    rows = [np.concatenate(small[i : i + 3], 1) for i in (0, 3, 6)]
    assert tissue_mask(np.concatenate(rows)).mean() > 0.95


@pytest.mark.parametrize(("count", "kind"), [(100, np.uint16), (300, np.int32)])
def test_pieces_are_labelled_in_as_little_memory_as_their_number_allows(count, kind):
    mask = np.zeros((600, 600), bool)
    mask[: 2 * count : 2, : 2 * count : 2] = True
    labels, found = _labelled(mask)
    assert labels.dtype == kind
    assert found == labels.max() == count * count
    assert ((labels > 0) == mask).all()
