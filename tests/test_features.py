"""Features of a tiny model: what is asked for, in any order, with nothing left behind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import SPEC, TILE_M, tiny_backbone

from model.autoencoder import to_signed
from model.card import FeatureSpec, read_card
from model.features import FeatureExtractor
from model.home import DEFAULT_MODEL
from model.weights import load_backbone

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


def noised(extractor: FeatureExtractor, latent: torch.Tensor, origins) -> torch.Tensor:
    """Return latents with the noise of their places, of the extractor's first timestep."""
    factor = extractor.backbone.autoencoder.factor
    height, width = (side * factor for side in latent.shape[-2:])
    noise = torch.from_numpy(extractor.noise(origins, height, width))
    return extractor._noised(latent, noise[:, 0], extractor.spec.timesteps[0])


def whole_pass(backbone, spec: FeatureSpec, tiles, origins) -> list[torch.Tensor]:
    """Return the tapped blocks' outputs as hooks see them while every network runs in full."""
    pixels, seen = to_signed(tiles), {}
    hooks = [
        block.register_forward_hook(lambda m, a, output, index=index: seen.update({index: output}))
        for index, block in enumerate(backbone.unet.up_blocks)
    ]
    with torch.inference_mode():
        vit = backbone.encoder.network(pixels, interpolate_pos_encoding=True)
        embedding = torch.nn.functional.normalize(vit.last_hidden_state[:, 0], dim=-1)
        encoded = backbone.autoencoder.network.encode(pixels)
        latent = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        latent = latent * backbone.autoencoder.network.config.scaling_factor
        one = FeatureExtractor(backbone, replace(spec, timesteps=spec.timesteps[:1]))
        sample = noised(one, latent, origins)
        tokens = backbone.conditioner(embedding)
        backbone.unet(sample, spec.timesteps[0], encoder_hidden_states=tokens)
    for hook in hooks:
        hook.remove()
    return [seen[block] for block in spec.up_blocks]


@pytest.mark.parametrize("blocks", [(0,), (1,), (2,), (2, 0), (0, 1, 2)])
def test_features_equal_those_of_a_pass_through_everything(backbone, tiles, blocks):
    spec = replace(PLAIN, up_blocks=blocks)
    expected = whole_pass(backbone, spec, tiles, ORIGINS)
    for found, wanted in zip(features(backbone, spec, tiles), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_features_of_the_shipped_model_equal_those_of_a_pass_through_everything():
    card = read_card(DEFAULT_MODEL)
    shipped = load_backbone(DEFAULT_MODEL, card)
    pixels = np.random.default_rng(1).integers(90, 250, (2, 256, 256, 3)).astype(np.uint8)
    tiles = torch.from_numpy(pixels)
    spec = replace(card.features, stem=None)
    expected = whole_pass(shipped, spec, tiles, ORIGINS[:2])
    for found, wanted in zip(features(shipped, spec, tiles), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5 * wanted.abs().max().item(), rtol=1e-4)


def test_sides_that_do_not_halve_evenly_come_out_as_in_a_pass_through_everything(backbone):
    pixels = np.random.default_rng(2).integers(0, 256, (2, 52, 44, 3)).astype(np.uint8)
    tiles = torch.from_numpy(pixels)
    expected = whole_pass(backbone, PLAIN, tiles, ORIGINS[:2])
    for found, wanted in zip(features(backbone, PLAIN, tiles), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_what_nobody_reads_does_not_run(backbone, tiles):
    ran = []
    unet, vit = backbone.unet, backbone.encoder.network
    unread = [*unet.up_blocks[1:], unet.conv_norm_out, unet.conv_out]
    hooks = [m.register_forward_pre_hook(lambda m, args: ran.append(m)) for m in unread]
    rows = []
    mlps = [layer.mlp for layer in vit.layers]
    hooks += [m.register_forward_pre_hook(lambda m, a: rows.append(a[0].shape[1])) for m in mlps]
    features(backbone, replace(PLAIN, up_blocks=(0,)), tiles)
    assert not ran
    assert rows == [*[17] * (len(mlps) - 1), 1]  # of the last layer, the class token alone
    for hook in hooks:
        hook.remove()


def test_an_encoder_that_no_condition_depends_on_does_not_run(tiles):
    constant = tiny_backbone(3)
    constant.conditioner.patch_fc.weight.zero_()
    ran = []
    constant.encoder.register_forward_pre_hook(lambda m, args: ran.append(m))
    constant.encoder.network.register_forward_pre_hook(lambda m, args: ran.append(m))
    for found, wanted in zip(
        features(constant, PLAIN, tiles), whole_pass(constant, PLAIN, tiles, ORIGINS), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert ran == [constant.encoder.network]  # by the whole pass
    features(constant, replace(PLAIN, conditioned=False), tiles)
    assert len(ran) == 1


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
    parts = (backbone.unet.conv_in, backbone.encoder, backbone.autoencoder)
    hooks = [part.register_forward_pre_hook(lambda m, args: ran.append(m)) for part in parts]
    maps = features(backbone, replace(SPEC, up_blocks=()), tiles)
    features(backbone, PLAIN, tiles)
    for hook in hooks:
        hook.remove()
    assert len(maps) == 2 and len(ran) == 3


def test_every_timestep_takes_one_pass_whatever_the_blocks(backbone, tiles):
    passes = []
    hook = backbone.unet.time_proj.register_forward_pre_hook(
        lambda m, args: passes.append(args[0].tolist())
    )
    features(backbone, replace(SPEC, timesteps=(5, 60)), tiles)
    hook.remove()
    assert passes == [[5], [60]]


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
    extractor = FeatureExtractor(backbone, replace(SPEC, timesteps=(300,)))
    wide = torch.randn(1, 4, 16, 28)
    first, second = wide[..., :16], wide[..., 12:]
    origins = [(-96, 32), (-96 + 12 * backbone.autoencoder.factor, 32)]
    both = noised(extractor, torch.cat([first, second]), origins)
    assert torch.equal(both[0, :, :, 12:], both[1, :, :, :4])
    assert (both[0] - first[0]).abs().max() > 0.1
    elsewhere = noised(extractor, second, [(0, 0)])
    assert not torch.allclose(elsewhere[0, :, :, :4], both[1, :, :, :4])


def test_noise_has_the_schedules_share_and_depends_on_its_seed(backbone):
    spec = replace(SPEC, timesteps=(300,))
    extractor = FeatureExtractor(backbone, spec)
    zeros, ones = torch.zeros(1, 4, 64, 64), torch.ones(1, 4, 64, 64)
    signal, share = backbone.schedule.mix(300)
    noise = noised(extractor, zeros, [(0, 0)])
    assert noise.std().item() == pytest.approx(share, rel=0.02)
    torch.testing.assert_close(noised(extractor, ones, [(0, 0)]) - noise, signal * ones)
    other = FeatureExtractor(backbone, replace(spec, noise_seed=1))
    assert not torch.allclose(noised(other, zeros, [(0, 0)]), noise)


def test_place_on_the_slide_changes_the_features_and_the_stem_does_not_care(backbone, tiles):
    here, there = (features(backbone, SPEC, tiles[:1], [o]) for o in ((0, 0), (64, 0)))
    changed = [not torch.allclose(a, b, atol=1e-4) for a, b in zip(here, there, strict=True)]
    assert changed == [True, True, True, False, False]


def test_a_timestep_that_the_schedule_has_not_is_refused(backbone, tiles):
    with pytest.raises(ValueError, match=r"0\.\.999, got 1000"):
        features(backbone, replace(PLAIN, timesteps=(1000,)), tiles)
