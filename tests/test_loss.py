"""What a head is told of its errors."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from model.labels import IGNORED
from model.loss import class_weights, segmentation_loss, soft_targets


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


def test_it_is_torchs_cross_entropy_plus_one_minus_the_dice_of_the_classes_there():
    torch.manual_seed(0)
    codes = torch.randint(0, 2, (2, 4, 4), dtype=torch.uint8)
    logits = torch.randn(2, 3, 4, 4)
    shares, weight = soft_targets(codes, classes=3, cell_m=1)
    found = segmentation_loss(logits, shares, weight, torch.ones(3))
    probabilities = logits.softmax(1)
    dice = []
    for code in (0, 1):  # nothing is of the third
        truth = (codes == code).float()
        both, either = (
            (probabilities[:, code] * truth).sum(),
            (probabilities[:, code] + truth).sum(),
        )
        dice.append((2 * both + 1) / (either + 1))
    expected = cross_entropy(logits, codes.long()) + 1 - torch.stack(dice).mean()
    torch.testing.assert_close(found, expected)


def test_no_gradient_comes_from_what_is_not_labelled():
    codes = torch.zeros(1, 8, 8, dtype=torch.uint8)
    codes[:, 4:] = IGNORED
    logits = torch.randn(1, 2, 8, 8, requires_grad=True)
    segmentation_loss(logits, *soft_targets(codes, 2, 1), torch.ones(2)).backward()
    assert logits.grad[:, :, :4].abs().min() > 0 and not logits.grad[:, :, 4:].any()


def test_a_batch_without_any_label_has_no_gradient_to_give():
    codes = torch.full((1, 4, 4), IGNORED, dtype=torch.uint8)
    shares, weight = soft_targets(codes, classes=2, cell_m=2)
    assert not weight.any() and torch.isfinite(shares).all()


def test_rare_classes_weigh_more_and_absent_ones_nothing():
    codes = [np.array([[0] * 16, [0] * 15 + [1]], np.uint8), np.full((2, 2), IGNORED, np.uint8)]
    weights = class_weights(codes, 3)
    assert weights[1] / weights[0] == pytest.approx(31**0.5)
    assert weights[2] == 0 and weights[:2].mean() == pytest.approx(1)
