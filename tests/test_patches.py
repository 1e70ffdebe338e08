"""Patches show everything that is labelled, once it is far enough from a patch's rim."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.labels import IGNORED, LabelledPixels
from model.patches import LATTICE_M, patches_of, starts

sizes = st.integers(1, 300)
sides = st.sampled_from([32, 64, 96])
strides = st.integers(1, 100)


def numbered(height: int, width: int) -> LabelledPixels:
    """Return an image whose every pixel tells where it lies, all labelled."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([y % 256, x % 256, (y // 256) * 16 + x // 256], axis=2).astype(np.uint8)
    return LabelledPixels(pixels, ((y + x) % 250).astype(np.uint8))


@given(sizes, sizes, sides, strides, st.integers(0, 15))
@settings(max_examples=60, deadline=None)
def test_every_label_but_of_the_last_pixels_is_in_a_patch_and_where_it_belongs(
    height, width, side, stride, margin
):
    image = numbered(height, width)
    seen = np.zeros((height, width), bool)
    for patch in patches_of(image, (160, -320), side, stride, margin):
        x, y = patch.origin_m[0] - 160, patch.origin_m[1] + 320
        box = np.s_[y : y + side, x : x + side]
        inside = np.s_[: seen[box].shape[0], : seen[box].shape[1]]
        assert (patch.pixels[inside] == image.pixels[box]).all()
        known = patch.codes != IGNORED
        assert (patch.codes[inside] == image.codes[box])[known[inside]].all()
        assert not known[seen[box].shape[0] :].any() and not known[:, seen[box].shape[1] :].any()
        seen[box] |= known[inside]
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    assert seen[: rows[-1] + 1, : columns[-1] + 1].all()
    assert height - LATTICE_M < len(rows) and width - LATTICE_M < len(columns)


@given(st.integers(64, 600), sides, strides)
@settings(deadline=None)
def test_patches_begin_on_the_lattice_and_leave_no_gap(length, side, stride):
    begins = starts(max(length, side), side, stride)
    assert begins[0] == 0 and all(b % LATTICE_M == 0 for b in begins)
    assert begins == sorted(set(begins))
    assert all(b - a <= side for a, b in pairwise(begins))
    assert 0 <= max(length, side) - begins[-1] - side < LATTICE_M


def test_rims_are_labelled_at_the_images_edge_only():
    image = numbered(112, 64)
    first, second = patches_of(image, (0, 0), side_m=64, stride_m=48, margin_m=8)
    assert (first.origin_m, second.origin_m) == ((0, 0), (0, 48))
    for patch, rim in ((first, np.s_[56:]), (second, np.s_[:8])):
        assert (patch.codes[rim] == IGNORED).all()
        assert (patch.codes != IGNORED).sum() == 56 * 64


def test_a_rim_that_no_neighbour_shows_stays_labelled():
    patches = list(patches_of(numbered(64, 128), (0, 0), side_m=64, stride_m=64, margin_m=8))
    assert len(patches) == 2
    assert all((patch.codes != IGNORED).all() for patch in patches)


def test_a_small_image_is_reflected_and_its_reflection_has_no_label():
    image = numbered(20, 40)
    (patch,) = patches_of(image, (5, 7), side_m=64, stride_m=48, margin_m=8)
    assert patch.origin_m == (5, 7)
    assert (patch.pixels[:20, :40] == image.pixels).all()
    assert (patch.pixels[20:40, :40] == image.pixels[::-1]).all()
    assert (patch.pixels[:20, 40:64] == image.pixels[:, :15:-1]).all()
    assert (patch.codes[:20, :40] == image.codes).all()
    assert (patch.codes != IGNORED).sum() == 20 * 40


def test_patches_without_a_label_are_left_out():
    image = numbered(64, 256)
    image.codes[:, 20:] = IGNORED
    assert len(list(patches_of(image, (0, 0), 64, 48, 8))) == 1
    image.codes[:] = IGNORED
    assert list(patches_of(image, (0, 0), 64, 48, 8)) == []


def test_the_image_itself_is_not_changed():
    image = numbered(100, 100)
    before = image.codes.copy()
    for patch in patches_of(image, (0, 0), 64, 48, 8):
        patch.codes[:] = 3
    assert (image.codes == before).all()


@pytest.mark.parametrize("stride", [40, 47, 200])
def test_a_stride_off_the_lattice_or_beyond_a_side_is_brought_to_it(stride):
    assert starts(192, 64, stride)[1] in (32, 64)
