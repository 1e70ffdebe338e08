import numpy as np
import pytest
import torch

from model import load_segmenter
from model.home import DEFAULT_MODEL
from model.weights import load_backbone


@pytest.fixture(scope="module")
def segmenter():
    return load_segmenter(DEFAULT_MODEL, device="cpu")


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    smooth = np.random.default_rng(0).integers(120, 250, (3, 32, 32, 3)).repeat(8, 1).repeat(8, 2)
    return smooth.astype(np.uint8)


@pytest.fixture(scope="module")
def scores(segmenter, tiles) -> dict[str, np.ndarray]:
    """Return the probabilities of all tiles at once, which nobody may change."""
    return segmenter.probabilities(tiles, ORIGINS)


ORIGINS = [(0, 0), (-128, 384), (99_968, 128)]


def test_probabilities_of_every_head_add_to_one(segmenter, scores):
    assert set(scores) == {"tissue", "glands"}
    for name, probabilities in scores.items():
        classes = len(segmenter.card.heads[name].classes)
        cells = segmenter.card.tile_m // segmenter.card.cell_m
        assert probabilities.shape == (3, classes, cells, cells)
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)


def test_the_same_input_gives_the_same_output_bit_for_bit(segmenter, tiles, scores):
    again = segmenter.probabilities(tiles, ORIGINS)
    for name in scores:
        np.testing.assert_array_equal(again[name], scores[name])


def test_batch_and_order_change_nothing_beyond_rounding(segmenter, tiles, scores):
    for index in (2, 0, 1):
        alone = segmenter.probabilities(tiles[index : index + 1], [ORIGINS[index]])
        for name in scores:
            np.testing.assert_allclose(alone[name][0], scores[name][index], atol=1e-4)


def test_one_head_alone_gives_what_it_gives_among_others(tiles, scores):
    alone = load_segmenter(DEFAULT_MODEL, ["glands"], device="cpu")
    assert alone.heads == ["glands"]
    np.testing.assert_array_equal(alone.probabilities(tiles, ORIGINS)["glands"], scores["glands"])


def test_one_pass_of_the_backbone_serves_every_head(segmenter, tiles):
    passes = []
    unet = segmenter._extractor.backbone.unet
    hook = unet.conv_in.register_forward_hook(lambda *_: passes.append(1))
    scores = segmenter.probabilities(tiles, ORIGINS)
    hook.remove()
    assert len(scores) == len(segmenter.heads) > 1
    assert len(passes) == len(segmenter.card.features.timesteps)


def test_the_condition_changes_the_features(segmenter, tiles):
    backbone = load_backbone(DEFAULT_MODEL, segmenter.card)
    pixels = torch.from_numpy(tiles[:1]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        latent = backbone.autoencoder(pixels)
        embedding = backbone.encoder(pixels)
        told = [
            backbone.unet(latent, 50, encoder_hidden_states=backbone.conditioner(e)).sample
            for e in (embedding, torch.zeros_like(embedding))
        ]
    assert torch.linalg.vector_norm(embedding).item() == pytest.approx(1.0, abs=1e-5)
    assert (told[0] - told[1]).abs().max() > 1e-3
