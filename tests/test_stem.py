import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, max_pool2d

from model.errors import ModelError
from model.stem import MEAN, STD, Stem, StemPlan, stem_of


@pytest.fixture(scope="module")
def tiles() -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3)).astype(np.uint8)
    return torch.from_numpy(pixels)


def test_the_maps_are_those_of_the_layers_written_out_one_by_one(tiles):
    torch.manual_seed(0)
    stem = Stem(StemPlan(shrink=2, layers=4, taps=(1, 3))).eval()
    x = tiles.permute(0, 3, 1, 2).double() / 255
    x = x.reshape(2, 3, 16, 2, 24, 2).mean((3, 5))
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    weights = [(layer.weight.double(), layer.bias.double()) for layer in stem.layers]
    with torch.no_grad():
        second = conv2d(conv2d(x, *weights[0], padding=1).relu(), *weights[1], padding=1).relu()
        third = conv2d(max_pool2d(second, 2), *weights[2], padding=1).relu()
        fourth = conv2d(third, *weights[3], padding=1).relu()
        found = stem(tiles)
    assert stem.channels == (64, 128)
    for one, other in zip(found, (second, fourth), strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-5)


def test_a_stem_without_settings_is_none_and_one_from_json_is_the_same():
    assert stem_of(None) is None
    plan = StemPlan.of({"shrink": 1, "layers": 3, "taps": [0, 2]})
    assert plan == StemPlan(1, 3, (0, 2))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"taps": [0], "colour": 1},
        {"taps": 3},
        {"taps": []},
        {"taps": [1, 0]},
        {"taps": [0, 0]},
        {"taps": [8]},
        {"taps": [-1]},
        {"taps": ["a"]},
        {"taps": [0], "layers": 0},
        {"taps": [0], "layers": 11},
        {"taps": [0], "shrink": 0},
    ],
)
def test_settings_that_make_no_stem_are_one_clear_error(settings):
    with pytest.raises(ModelError, match="stem"):
        stem_of(settings)
