"""Probabilities of whole images from overlapping patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import SPEC, halves, tiny_backbone

from model.cache import GIB, FeatureCache, PatchPlan
from model.features import FeatureExtractor
from model.head import Head
from model.patches import starts
from model.predict import Blend, HeadPredictor

PLAN = PatchPlan(side_m=64, stride_m=32, margin_m=8)


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor(tiny_backbone(), SPEC).eval()


@pytest.fixture(scope="module")
def head(extractor) -> Head:
    """Return a random head whose norms have seen features, so that its scores vary."""
    torch.manual_seed(1)
    head = Head(extractor.channels, classes=3, width=8).requires_grad_(False)
    for module in head.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    head.train()(extractor(torch.from_numpy(halves(0, 64).pixels)[None], [(0, 0)]))
    return head.eval()


@pytest.fixture
def predictor(extractor, head, tmp_path) -> HeadPredictor:
    return HeadPredictor(extractor, "m", head, PLAN, FeatureCache(tmp_path))


@given(st.integers(8, 70), st.integers(8, 70), st.sampled_from([8, 16]), st.integers(1, 16))
@settings(max_examples=40, deadline=None)
def test_a_constant_stays_a_constant_everywhere(height, width, side, stride):
    blend = Blend(2, height, width)
    constant = np.stack([np.full((side, side), p, np.float32) for p in (0.3, 0.7)])
    for y in range(0, max(1, height - side + 1), min(stride, side)):
        for x in range(0, max(1, width - side + 1), min(stride, side)):
            blend.add(constant, x, y)
    found = blend.probabilities()
    assert found.shape == (2, height, width)
    np.testing.assert_allclose(found[0], 0.3, atol=1e-5)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


def test_one_patch_is_given_back_as_it_is():
    alone = np.random.default_rng(0).dirichlet(np.ones(3), (16, 16)).astype(np.float32)
    blend = Blend(3, 16, 16)
    blend.add(alone.transpose(2, 0, 1), 0, 0)
    np.testing.assert_allclose(blend.probabilities(), alone.transpose(2, 0, 1), atol=1e-6)


def test_the_middle_of_a_patch_outweighs_the_rim_of_another():
    blend = Blend(1, 16, 24)
    blend.add(np.zeros((1, 16, 16), np.float32), 0, 0)
    blend.add(np.ones((1, 16, 16), np.float32), 8, 0)
    row = blend.probabilities()[0, 8]
    assert (np.diff(row) >= 0).all() and row[8] < 0.05 and row[15] > 0.95


def test_a_patch_that_juts_out_gives_what_lies_inside():
    blend = Blend(1, 10, 12)
    blend.add(np.arange(256, dtype=np.float32).reshape(1, 16, 16), 0, 0)
    expected = np.arange(256).reshape(16, 16)[:10, :12]
    np.testing.assert_allclose(blend.probabilities()[0], expected, rtol=1e-5)


def test_what_no_patch_reached_is_as_its_neighbour():
    blend = Blend(1, 18, 20)
    blend.add(np.arange(256, dtype=np.float32).reshape(1, 16, 16), 0, 0)
    found = blend.probabilities()[0]
    assert (found[16:, :16] == found[15, :16]).all() and (found[:, 16:] == found[:, 15:16]).all()


def test_an_image_of_one_patch_has_that_patchs_scores(predictor, extractor, head):
    pixels = halves(1, 64).pixels
    with torch.inference_mode():
        features = extractor(torch.from_numpy(pixels)[None], [(-320, 64)])
        cells = head([f.half().float() for f in features]).softmax(1)
        expected = torch.nn.functional.interpolate(cells, scale_factor=2.0, mode="bilinear")
    assert cells.std((2, 3)).min() > 0.02  # not a constant
    np.testing.assert_allclose(predictor(pixels, (-320, 64)), expected[0].numpy(), atol=1e-4)


@pytest.mark.parametrize("size", [(20, 64), (64, 20), (65, 79), (81, 160), (101, 99)])
def test_every_pixel_of_any_size_is_covered_and_adds_to_one(predictor, size):
    pixels = np.resize(halves(2, 192).pixels, (*size, 3))
    found = predictor(pixels, (0, 0))
    assert found.shape == (3, *size) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-4)


def test_a_pixels_score_does_not_move_with_the_images_odd_end(predictor):
    """A row more or less at the far end must not stretch what is above it."""
    pixels = halves(2, 96).pixels
    whole, odd = predictor(pixels, (0, 0)), predictor(pixels[:95, :93], (0, 0))
    rows, columns = starts(95, 64, 32), starts(93, 64, 32)
    assert rows == columns == [0, 16]
    inside = predictor(pixels[:80, :80], (0, 0))
    np.testing.assert_allclose(odd[:, :76, :76], inside[:, :76, :76], atol=1e-4)
    assert whole.shape[1:] == (96, 96)


def test_the_noise_is_that_of_the_images_place(predictor):
    pixels = halves(3, 96).pixels
    here, there = predictor(pixels, (0, 0)), predictor(pixels, (16, 0))
    assert here.shape == there.shape and np.abs(here - there).max() > 1e-3


def test_more_can_be_measured_than_the_cache_may_hold(extractor, head, tmp_path):
    roomy = HeadPredictor(extractor, "m", head, PLAN, FeatureCache(tmp_path))
    expected = [roomy(halves(seed, 96).pixels, (0, 0)) for seed in range(4)]
    size = max(path.stat().st_size for path in tmp_path.iterdir())
    tight = HeadPredictor(extractor, "m", head, PLAN, FeatureCache(tmp_path, 1.5 * size / GIB))
    for seed in (3, 2, 1, 0):
        np.testing.assert_array_equal(tight(halves(seed, 96).pixels, (0, 0)), expected[seed])
    tight(halves(9, 96).pixels, (0, 0))
    assert len(list(tmp_path.iterdir())) == 1
