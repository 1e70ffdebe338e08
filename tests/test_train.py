import numpy as np
import pytest
import torch

from model import load_segmenter
from model.card import DEFAULT_MODEL
from model.train import (
    IGNORED,
    CachedFeatures,
    HeadTraining,
    LabelledTile,
    class_weights,
    segmentation_loss,
    soft_targets,
    train_head,
)


def test_soft_targets_are_the_shares_of_what_is_labelled():
    codes = torch.tensor([[[0, 1, 2, IGNORED], [1, 1, IGNORED, IGNORED]]], dtype=torch.uint8)
    shares, weight = soft_targets(codes, classes=3, cell_m=2)
    torch.testing.assert_close(shares[0, :, 0, 0], torch.tensor([0.25, 0.75, 0.0]))
    torch.testing.assert_close(shares[0, :, 0, 1], torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(weight[0], torch.tensor([[1.0, 0.25]]))


def test_the_loss_falls_towards_the_truth_and_ignores_what_is_not_labelled():
    codes = torch.zeros(1, 8, 8, dtype=torch.uint8)
    codes[:, :, 4:] = 1
    codes[:, 4:] = IGNORED
    shares, weight = soft_targets(codes, classes=2, cell_m=2)
    right = torch.zeros(1, 2, 4, 4)
    right[:, 0, :, :2] = right[:, 1, :, 2:] = 5
    even = torch.ones(2)
    good = segmentation_loss(right, shares, weight, even)
    assert good < segmentation_loss(torch.zeros_like(right), shares, weight, even)
    assert segmentation_loss(torch.zeros_like(right), shares, weight, even) < segmentation_loss(
        -right, shares, weight, even
    )
    spoiled = right.clone()
    spoiled[:, :, 2:] = -right[:, :, 2:]  # wrong, but where nothing is labelled
    torch.testing.assert_close(segmentation_loss(spoiled, shares, weight, even), good)


def test_rare_classes_weigh_more_and_absent_ones_nothing():
    codes = [np.array([[0] * 16, [0] * 15 + [1]], np.uint8), np.full((2, 2), IGNORED, np.uint8)]
    weights = class_weights(codes, 3)
    assert weights[1] / weights[0] == pytest.approx(31**0.5)
    assert weights[2] == 0 and weights[:2].mean() == pytest.approx(1)


@pytest.fixture(scope="module")
def halves() -> list[LabelledTile]:
    """Tiles of two textures side by side, and which is which."""
    rng = np.random.default_rng(0)
    tiles = []
    for index in range(6):
        pixels = np.full((64, 64, 3), (235, 180, 215), np.uint8)
        dots = rng.random((32, 64)) < 0.35
        codes = np.zeros((64, 64), np.uint8)
        pixels[:32][dots] = (70, 40, 120)
        codes[:32] = 1
        tiles.append(LabelledTile(np.rot90(pixels, index).copy(), np.rot90(codes, index).copy()))
    return tiles


def test_a_head_learns_from_cached_features_and_the_cache_survives_a_file(halves, tmp_path):
    extractor = load_segmenter(DEFAULT_MODEL, ["glands"], "cpu")._extractor
    features = CachedFeatures(extractor, halves)
    features.save(tmp_path / "cache.safetensors")
    loaded = CachedFeatures.load(tmp_path / "cache.safetensors")
    assert len(loaded) == 6 and loaded.channels == features.channels == (192, 96, 48)
    for one, other in zip(features.batch([4, 1]), loaded.batch([4, 1]), strict=True):
        torch.testing.assert_close(one, other)

    settings = HeadTraining(steps=40, batch=4, learning_rate=5e-3, width=16)
    head = train_head(loaded, [t.codes for t in halves], 2, settings)
    with torch.inference_mode():
        found = head(loaded.batch(range(6))).argmax(dim=1).numpy()
    truth = np.stack([t.codes for t in halves])[:, ::2, ::2]
    assert (found == truth).mean() > 0.9
