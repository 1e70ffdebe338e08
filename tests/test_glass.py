from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qupath_bridge.engine.glass import Glass, glass_mask
from qupath_bridge.errors import PixelSizeError, SlideError
from qupath_bridge.geometry import BoxL0, Mpp, Scale
from qupath_bridge.overview import Overview
from qupath_bridge.slide import open_slide
from qupath_bridge.tissue import tissue_mask

GLASS = (243, 241, 244)
MPP = Mpp(0.5, 0.5)
SIDE = 1536
NOISE = np.random.default_rng(0).normal(0, 2.5, (SIDE, SIDE, 3)).astype(np.float32)


def bare(side: int = SIDE, colour: tuple[float, ...] = GLASS) -> np.ndarray:
    """Return glass at 0.5 um a pixel with a camera's noise, uint8 [side, side, 3]."""
    noisy = np.array(colour, np.float32) + NOISE[:side, :side]
    return np.rint(noisy).clip(0, 255).astype(np.uint8)


def glass_of(pixels: np.ndarray, folder: Path) -> Glass:
    tifffile.imwrite(folder / "a.tif", pixels, tile=(256, 256), photometric="rgb")
    with open_slide(folder / "a.tif", MPP) as slide:
        return Glass.of(Overview.of(slide))


def around(x: float, y: float, side: float = 256) -> BoxL0:
    return BoxL0(x - side / 2, y - side / 2, x + side / 2, y + side / 2)


MIDDLE = around(SIDE / 2, SIDE / 2)


def test_a_slide_of_bare_glass_is_glass_everywhere_and_so_is_what_lies_outside(
    tmp_path: Path,
) -> None:
    glass = glass_of(bare(), tmp_path)
    assert glass.mask.all()
    for box in (MIDDLE, BoxL0(0, 0, SIDE, SIDE), around(-50, -50), around(9000, 9000)):
        assert glass.is_glass(box)


@pytest.mark.parametrize(
    ("what", "height", "width", "colour"),
    [
        ("nucleus", 12, 12, (110, 80, 150)),
        ("fibre", 300, 3, (220, 150, 190)),
        ("pale mucus", 200, 200, (233, 228, 238)),
        ("faint edge", 200, 200, (237, 234, 238)),
        ("shadow", 200, 200, (236, 234, 237)),
    ],
)
def test_a_box_with_something_in_it_or_a_pixel_beside_it_is_not_glass(
    tmp_path: Path, what: str, height: int, width: int, colour: tuple[int, ...]
) -> None:
    pixels = bare()
    pixels[700 : 700 + height, 700 : 700 + width] = colour
    glass = glass_of(pixels, tmp_path)
    inside = around(700 + width / 2, 700 + height / 2)
    assert not glass.is_glass(inside), what
    assert not glass.is_glass(BoxL0(700 - 256 - 8, 650, 700 - 8, 906)), what
    assert glass.is_glass(around(200, 200)), what


def test_a_smooth_shadow_that_fades_into_glass_is_not_glass(tmp_path: Path) -> None:
    fade = np.linspace(0, 60, 600)[None, :, None]
    pixels = bare().astype(float)
    pixels[400:1000, 400:1000] -= fade
    glass = glass_of(pixels.astype(np.uint8), tmp_path)
    assert not glass.is_glass(around(700, 700))


def test_filling_is_glass_beside_a_darker_glass_but_their_seam_is_not(tmp_path: Path) -> None:
    pixels = bare()
    pixels[:, SIDE // 2 :] = 255
    glass = glass_of(pixels, tmp_path)
    assert glass.is_glass(around(300, 700))
    assert glass.is_glass(around(1200, 700))
    assert not glass.is_glass(MIDDLE)


@pytest.mark.parametrize("colour", [(205, 180, 200), (190, 190, 190), (230, 205, 225)])
def test_where_the_brightest_is_dark_or_coloured_nothing_is_taken_for_glass(
    tmp_path: Path, colour: tuple[int, ...]
) -> None:
    assert not glass_of(bare(colour=colour), tmp_path).mask.any()


@pytest.mark.parametrize("kind", ["ADI", "MUC", "STR", "NORM"])
def test_real_fat_and_mucus_are_no_glass_even_where_the_glass_has_their_lightest_colour(
    shared_data: Path, tmp_path: Path, kind: str
) -> None:
    files = sorted((shared_data / "tiles" / "nct_crc" / kind).iterdir())
    known = 0
    for file in files:
        tissue = np.asarray(Image.open(file).convert("RGB"))
        light = tissue.min(2)
        lightest = np.median(tissue[light >= np.percentile(light, 90)], axis=0)
        pixels = bare(768, tuple(lightest))
        pixels[272:496, 272:496] = tissue
        glass = glass_of(pixels, tmp_path)
        known += glass.is_glass(around(100, 384, 128))
        assert not glass.is_glass(around(384, 384)), file.name
    assert known > 6 or kind != "ADI"  # the rest is too coloured to be taken for glass at all


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "tcga-cr-7395-01a-01-ts1.svs"])
def test_on_real_slides_much_is_glass_and_none_of_it_is_tissue(
    shared_data: Path, name: str
) -> None:
    with open_slide(shared_data / "slides" / name, MPP) as slide:
        glass = Glass.of(Overview.of(slide))
        height, width = glass.mask.shape
        small = slide.read(BoxL0(0, 0, slide.width, slide.height), width, height)
    assert 0.2 < glass.mask.mean() < 0.7
    stained = small.astype(int).max(2) - small.min(2) > 25
    assert not (glass.mask & stained).any()
    assert (glass.mask & tissue_mask(small)).sum() < 0.1 * glass.mask.sum()  # its margin


def test_a_slide_without_glass_has_none(shared_data: Path) -> None:
    with open_slide(shared_data / "slides" / "OS-1-detail.ome.tif") as slide:
        assert not Glass.of(Overview.of(slide)).mask.any()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(3, 40), st.floats(3, 40))
def test_many_boxes_at_once_are_judged_as_one_by_one_and_by_every_pixel(
    seed: int, scale_x: float, scale_y: float
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((60, 50)) < 0.995
    glass = Glass(mask, Scale(scale_x, scale_y))
    x0, y0 = rng.uniform(-10, 60, 40) * scale_x, rng.uniform(-10, 70, 40) * scale_y
    x1, y1 = x0 + rng.uniform(1, 300, 40), y0 + rng.uniform(1, 300, 40)
    found = glass.are_glass(x0, y0, x1, y1)
    rows, columns = np.nonzero(~mask)
    for i, said in enumerate(found):
        box = BoxL0(x0[i], y0[i], x1[i], y1[i])
        assert glass.is_glass(box) == said
        touched = (columns + 2) * scale_x > box.x0
        touched &= (columns - 1) * scale_x < box.x1
        touched &= ((rows + 2) * scale_y > box.y0) & ((rows - 1) * scale_y < box.y1)
        assert said == (not touched.any())


def test_no_boxes_get_no_answers() -> None:
    none = np.zeros(0)
    assert Glass(np.ones((3, 3), bool), Scale(10, 10)).are_glass(none, none, none, none).shape == (
        0,
    )


def test_even_is_what_hardly_changes_within_a_pixel() -> None:
    small = np.full((40, 40, 3), GLASS, np.uint8)
    small[20, 20] -= 5
    expected = np.ones((40, 40), bool)
    expected[19:22, 19:22] = False
    assert np.array_equal(glass_mask(small), expected)


# --- bad input -------------------------------------------------------------------------------


def test_a_part_that_cannot_be_decoded_is_no_glass_and_the_rest_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qupath_bridge.overview.PART_PIXELS", 32)
    path, side = tmp_path / "a.tif", 32 * 16 * 3
    pixels = np.broadcast_to(np.array(GLASS, np.uint8), (side, side, 3))
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages.first.dataoffsets[0], tif.pages.first.databytecounts[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x07" * count)
    with open_slide(path, MPP) as slide:
        glass = Glass.of(Overview.of(slide))
    assert not glass.is_glass(around(200, 200))
    assert glass.is_glass(around(side - 400, side - 400))


def test_a_slide_that_is_removed_meanwhile_is_named(shared_data: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(shared_data / "slides/CMU-1-Small-Region.svs", tmp_path / "a.svs"))
    with open_slide(path) as slide:
        path.unlink()
        with pytest.raises(SlideError, match=r"a\.svs was removed while it was being read"):
            Glass.of(Overview.of(slide))


def test_a_slide_without_a_pixel_size_is_refused(tmp_path: Path) -> None:
    Image.fromarray(bare(100)).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide, pytest.raises(PixelSizeError, match=r"a\.png"):
        Glass.of(Overview.of(slide))


def test_a_box_is_in_level_0_pixels_whatever_the_models_are(tmp_path: Path) -> None:
    pixels = bare()
    pixels[1200:1300, 1200:1300] = 90
    glass, scale = glass_of(pixels, tmp_path), Scale(2, 2)
    assert not glass.is_glass(scale.box_l0(600, 600, 50, 50))
    assert glass.is_glass(scale.box_l0(300, 300, 128, 128))
