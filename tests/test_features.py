"""Features of a tiny model: what is asked for, in any order, with nothing left behind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import SPEC, TILE_M, tiny_backbone

from model.autoencoder import to_signed
from model.card import FeatureSpec
from model.features import FeatureExtractor

PLAIN = replace(SPEC, stem=None)
ORIGINS = [(0, 0), (-128, 384), (99_968, 128)]


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone(3)


@pytest.fixture(scope="module")
def tiles() -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (3, TILE_M, TILE_M, 3))
    return torch.from_numpy(pixels.astype(np.uint8))


def features(backbone, spec: FeatureSpec, tiles, origins=None) -> list[torch.Tensor]:
    extractor = FeatureExtractor(backbone, spec).eval()
    with torch.inference_mode():
        maps = extractor(tiles, origins or ORIGINS[: len(tiles)])
    assert tuple(m.shape[1] for m in maps) == extractor.channels
    return maps


def test_maps_are_the_blocks_in_their_order_then_the_stems(backbone, tiles):
    maps = features(backbone, replace(SPEC, up_blocks=(2, 0)), tiles)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (8, 16, 16),
        (24, 8, 8),
        (64, 16, 16),
        (64, 16, 16),
    ]
    for found, block in zip(maps[:2], (2, 0), strict=True):
        (alone,) = features(backbone, replace(PLAIN, up_blocks=(block,)), tiles)
        torch.testing.assert_close(found, alone)
    for found, stem in zip(maps[2:], backbone.stem(tiles), strict=True):
        torch.testing.assert_close(found, stem)


def test_joined_timesteps_stand_side_by_side_as_channels(backbone, tiles):
    spec = replace(PLAIN, timesteps=(10, 400))
    alone = [features(backbone, replace(PLAIN, timesteps=(t,)), tiles) for t in (10, 400)]
    joined = features(backbone, replace(spec, joined=True), tiles)
    for both, first, second in zip(joined, *alone, strict=True):
        torch.testing.assert_close(both, torch.cat([first, second], dim=1))
        assert (first - second).abs().max() > 1e-3


def test_timesteps_that_are_not_joined_are_averaged(backbone, tiles):
    alone = [features(backbone, replace(PLAIN, timesteps=(t,)), tiles) for t in (10, 100, 400)]
    mean = features(backbone, replace(PLAIN, timesteps=(10, 100, 400)), tiles)
    for found, *maps in zip(mean, *alone, strict=True):
        torch.testing.assert_close(found, sum(maps) / 3)


def test_one_timestep_is_the_same_joined_or_not(backbone, tiles):
    for one, other in zip(
        features(backbone, PLAIN, tiles),
        features(backbone, replace(PLAIN, joined=True), tiles),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_without_a_condition_the_unet_is_told_of_a_zero_embedding(backbone, tiles):
    told = []
    hook = backbone.conditioner.register_forward_pre_hook(lambda m, args: told.append(args[0]))
    off = features(backbone, replace(PLAIN, conditioned=False), tiles)
    on = features(backbone, PLAIN, tiles)
    hook.remove()
    assert told[0].shape == (3, 16) and not told[0].any()
    torch.testing.assert_close(told[1].norm(dim=1), torch.ones(3))
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(off, on, strict=True))


def test_without_blocks_the_unet_and_the_encoder_do_not_run(backbone, tiles):
    ran = []
    parts = (backbone.unet, backbone.encoder, backbone.autoencoder)
    hooks = [part.register_forward_pre_hook(lambda m, args: ran.append(m)) for part in parts]
    maps = features(backbone, replace(SPEC, up_blocks=()), tiles)
    features(backbone, PLAIN, tiles)
    for hook in hooks:
        hook.remove()
    assert len(maps) == 2 and len(ran) == 3


def test_every_timestep_takes_one_pass_whatever_the_blocks(backbone, tiles):
    passes = []
    hook = backbone.unet.register_forward_pre_hook(lambda m, args: passes.append(args[1]))
    features(backbone, replace(SPEC, timesteps=(5, 60)), tiles)
    hook.remove()
    assert passes == [5, 60]


def test_order_and_batch_change_nothing(backbone, tiles):
    together = features(backbone, SPEC, tiles)
    order = [2, 0, 1]
    turned = features(backbone, SPEC, tiles[order], [ORIGINS[i] for i in order])
    for index in range(3):
        alone = features(backbone, SPEC, tiles[index : index + 1], [ORIGINS[index]])
        for a, b, c in zip(together, turned, alone, strict=True):
            torch.testing.assert_close(a[index], b[order.index(index)], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(a[index], c[0], atol=1e-5, rtol=1e-4)


def test_where_patches_overlap_they_see_the_same_noised_latents(backbone, tiles):
    """With the latents taken as equal, as they are but for the autoencoder's borders."""
    extractor = FeatureExtractor(backbone, SPEC)
    wide = torch.randn(1, 4, 16, 28)
    first, second = wide[..., :16], wide[..., 12:]
    origins = [(-96, 32), (-96 + 12 * backbone.autoencoder.factor, 32)]
    noised = extractor._noised(torch.cat([first, second]), 300, origins)
    assert torch.equal(noised[0, :, :, 12:], noised[1, :, :, :4])
    assert (noised[0] - first[0]).abs().max() > 0.1
    elsewhere = extractor._noised(second, 300, [(0, 0)])
    assert not torch.allclose(elsewhere[0, :, :, :4], noised[1, :, :, :4])


def test_noise_has_the_schedules_share_and_depends_on_its_seed(backbone):
    extractor = FeatureExtractor(backbone, SPEC)
    zeros, ones = torch.zeros(1, 4, 64, 64), torch.ones(1, 4, 64, 64)
    signal, share = backbone.schedule.mix(300)
    noise = extractor._noised(zeros, 300, [(0, 0)])
    assert noise.std().item() == pytest.approx(share, rel=0.02)
    torch.testing.assert_close(extractor._noised(ones, 300, [(0, 0)]) - noise, signal * ones)
    other = FeatureExtractor(backbone, replace(SPEC, noise_seed=1))
    assert not torch.allclose(other._noised(zeros, 300, [(0, 0)]), noise)


def test_place_on_the_slide_changes_the_features_and_the_stem_does_not_care(backbone, tiles):
    here, there = (features(backbone, SPEC, tiles[:1], [o]) for o in ((0, 0), (64, 0)))
    changed = [not torch.allclose(a, b, atol=1e-4) for a, b in zip(here, there, strict=True)]
    assert changed == [True, True, True, False, False]


def test_no_hook_is_left_and_the_unets_own_output_is_as_before(backbone, tiles):
    pixels = to_signed(tiles)
    with torch.inference_mode():
        tokens = backbone.conditioner(backbone.encoder(pixels))
        latent = backbone.autoencoder(pixels)
        before = backbone.unet(latent, 50, encoder_hidden_states=tokens).sample
        features(backbone, replace(SPEC, timesteps=(1, 2)), tiles)
        after = backbone.unet(latent, 50, encoder_hidden_states=tokens).sample
    assert torch.equal(before, after)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.unet.modules())


def test_a_timestep_that_the_schedule_has_not_is_refused_and_no_hook_stays(backbone, tiles):
    with pytest.raises(ValueError, match=r"0\.\.999, got 1000"):
        features(backbone, replace(PLAIN, timesteps=(1000,)), tiles)
    assert not any(m._forward_hooks for m in backbone.unet.modules())
