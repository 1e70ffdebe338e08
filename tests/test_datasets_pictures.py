"""Picture files as arrays, and their change of resolution."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.datasets import pictures
from model.datasets.pictures import (
    pictures_in,
    read_codes,
    read_rgb,
    scaled_codes,
    scaled_rgb,
    voted_codes,
)
from model.errors import ModelError


@pytest.fixture
def drawn() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_a_picture_is_read_as_it_is(tmp_path, drawn, suffix):
    path = tmp_path / f"ä.{suffix}"
    Image.fromarray(drawn).save(path)
    assert (read_rgb(path) == drawn).all()


def test_a_picture_with_few_colours_or_transparency_is_read_in_its_colours(tmp_path):
    picture = Image.new("RGBA", (4, 3), (200, 0, 0, 0))
    picture.putpixel((1, 1), (10, 20, 30, 255))
    picture.save(tmp_path / "a.png")
    picture.convert("RGB").convert("P").save(tmp_path / "p.png")
    pixels = read_rgb(tmp_path / "a.png")
    assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[1, 1].tolist() == [10, 20, 30]
    assert read_rgb(tmp_path / "p.png").shape == (3, 4, 3)


def test_a_mask_with_a_palette_gives_its_numbers(tmp_path):
    mask = Image.fromarray(np.array([[0, 7], [2, 1]], np.uint8)).convert("P")
    mask.putdata([0, 7, 2, 1])
    mask.save(tmp_path / "m.png")
    assert read_codes(tmp_path / "m.png").tolist() == [[0, 7], [2, 1]]


def test_numbers_beyond_255_are_kept(tmp_path):
    Image.fromarray(np.array([[0, 700]], np.uint16)).save(tmp_path / "m.png")
    assert read_codes(tmp_path / "m.png").tolist() == [[0, 700]]


def test_what_is_no_picture_or_of_the_wrong_kind_is_named(tmp_path, drawn):
    whole = tmp_path / "whole.png"
    Image.fromarray(drawn).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:200])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "head.png").write_bytes(whole.read_bytes()[:8])
    for name in ("cut", "text", "empty", "head", "gone"):
        with pytest.raises(ModelError, match=rf"{name}\.png"):
            read_rgb(tmp_path / f"{name}.png")
    Image.fromarray(drawn[..., 0]).save(tmp_path / "grey.png")
    with pytest.raises(ModelError, match=r"grey\.png is of kind L; convert it"):
        read_rgb(tmp_path / "grey.png")
    with pytest.raises(ModelError, match=r"whole\.png has colours"):
        read_codes(whole)


def test_the_limit_of_size_is_ours(tmp_path, drawn, monkeypatch):
    Image.fromarray(drawn).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_rgb(tmp_path / "a.png").shape == drawn.shape
    monkeypatch.setattr(pictures, "MOST_PIXELS", 191)
    with pytest.raises(ModelError, match="too many pixels"):
        read_rgb(tmp_path / "a.png")


def test_only_visible_pictures_of_a_folder_are_listed(tmp_path):
    for name in ("b.PNG", "a.jpg", ".hidden.png", "~a.tif", "notes.txt", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in pictures_in(tmp_path)] == ["a.jpg", "b.PNG"]
    with pytest.raises(ModelError, match="cannot be read"):
        pictures_in(tmp_path / "gone")


# --- resolution ------------------------------------------------------------------------------

factors = st.sampled_from([0.25, 0.4, 0.5, 0.62005 / 0.5, 1.0, 1.7, 2.0])


@given(st.integers(5, 40), st.integers(5, 40), factors)
def test_image_and_mask_keep_one_size_at_any_scale(height, width, factor):
    codes = np.zeros((height, width), np.uint8)
    rgb = np.zeros((height, width, 3), np.uint8)
    size = scaled_rgb(rgb, factor).shape[:2]
    assert scaled_codes(codes, factor).shape == voted_codes(codes, factor).shape == size
    assert abs(size[0] - height * factor) < 1.001


def test_pixels_are_averages_of_their_area(drawn):
    half = scaled_rgb(drawn, 0.5)
    mean = drawn.reshape(6, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(half - mean).max() <= 1


def test_an_edge_stays_where_it_is_at_a_scale_that_is_not_whole():
    wide = np.zeros((10, 775, 3), np.uint8)
    wide[:, 500:] = 255
    scaled = scaled_rgb(wide, 0.62005 / 0.5)
    assert scaled.shape[1] == 961
    assert np.flatnonzero(scaled[5, :, 0] > 127)[0] == pytest.approx(500 * 0.62005 / 0.5, abs=1)
    codes = scaled_codes((wide[..., 0] > 0).astype(np.int32), 0.62005 / 0.5)
    assert np.flatnonzero(codes[0])[0] == pytest.approx(500 * 0.62005 / 0.5, abs=1)


def test_a_pixel_is_what_most_of_it_is():
    codes = np.array([[3, 3, 255, 255], [3, 0, 1, 255]], np.uint8)
    assert voted_codes(codes, 0.5).tolist() == [[3, 255]]


@given(st.integers(0, 50))
def test_a_vote_or_a_middle_gives_no_code_that_was_not_there(seed):
    rng = np.random.default_rng(seed)
    codes = rng.choice(np.array([1, 4, 255], np.uint8), (17, 23))
    for factor in (0.3, 0.5, 1.3):
        assert set(np.unique(voted_codes(codes, factor))) <= {1, 4, 255}
        assert set(np.unique(scaled_codes(codes, factor))) <= {1, 4, 255}


@pytest.mark.parametrize("factor", [1e6, math.nan, math.inf])
def test_a_picture_is_not_enlarged_beyond_what_a_machine_holds(factor):
    with pytest.raises(ModelError, match="cannot be enlarged"):
        scaled_rgb(np.zeros((60, 60, 3), np.uint8), factor)
