"""Published weights, imported: they compute what the source's own tensors compute."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from compvis_layout import (
    PUBLISHED,
    Sizes,
    conditioner_shapes,
    config_of,
    ldm_state,
    random_weights,
    vit_shapes,
    write_sources,
    zoom_conditioner_shapes,
)
from compvis_reference import dense, unet_maps, vit_embedding, vq_latent, within
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from model import ModelError, find_model, read_card
from model.autoencoder import to_signed
from model.checkpoints import fill
from model.compvis import read_latent_diffusion
from model.compvis_unet import convert_unet
from model.compvis_vq import convert_autoencoder
from model.features import FeatureExtractor
from model.home import models_home
from model.importing import Sources, import_model
from model.schedule import NoiseSchedule, noise_field
from model.weights import load_backbone, save_backbone

SMALL = Sizes()
ORIGIN = (36, -20)
TWO_TOKENS = conditioner_shapes(SMALL.vit_width, SMALL.context, region=96)
ONE_TOKEN = conditioner_shapes(SMALL.vit_width, SMALL.context)


@pytest.fixture(scope="module")
def tile() -> Tensor:
    """Return a patch with structure, uint8 [1, 256, 256, 3]."""
    y, x = np.mgrid[:256, :256] / 256
    waves = [np.sin(9 * x + 4 * y), np.cos(7 * x * y), np.sin(20 * (x - y) ** 2)]
    noise = np.random.default_rng(0).normal(0, 12, (256, 256, 3))
    pixels = 128 + 90 * np.stack(waves, axis=-1) + noise
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8))[None]


@pytest.fixture(scope="module")
def vit() -> dict[str, Tensor]:
    return random_weights(vit_shapes(SMALL), seed=9)


def unet_of(state: dict[str, Tensor], averaged: bool) -> dict[str, Tensor]:
    plain = within(state, "model.diffusion_model.")
    if not averaged:
        return plain
    return {k: state[f"model_ema.diffusion_model{k.replace('.', '')}"] for k in plain}


def expected_maps(
    state: dict[str, Tensor], pixels: Tensor, context: Tensor, averaged: bool = False
) -> list[Tensor]:
    """Return what the source's tensors compute at t = 50, all levels of the decoder."""
    latent = vq_latent(within(state, "first_stage_model."), pixels)
    corner = (ORIGIN[0] // 4, ORIGIN[1] // 4)
    noise = torch.from_numpy(noise_field(2504, 50, [corner], (3, 64, 64)))
    abar = float(state["alphas_cumprod"][50])
    noised = abar**0.5 * latent + (1 - abar) ** 0.5 * noise
    return unet_maps(unet_of(state, averaged), noised, 50, context)


def tokens_of(state: dict[str, Tensor], embedding: Tensor) -> Tensor:
    conditioner = within(state, "cond_stage_model.")
    tokens = [dense(conditioner, "patch_fc", normalize(embedding, dim=-1))]
    if "region_fc.weight" in conditioner:
        nothing = torch.zeros(len(embedding), conditioner["region_fc.weight"].shape[1])
        tokens.append(dense(conditioner, "region_fc", nothing))
    return torch.stack(tokens, dim=1)


def imported_maps(name: str, tile: Tensor) -> list[Tensor]:
    folder = models_home() / name
    card = read_card(folder)
    with torch.inference_mode():
        return FeatureExtractor(load_backbone(folder, card), card.features)(tile, [ORIGIN])


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert [f.shape for f in found] == [e.shape for e in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
        assert other.std() > 0.1  # or else 1e-4 would mean nothing


@pytest.mark.parametrize(
    ("shapes", "with_config"), [(TWO_TOKENS, True), (TWO_TOKENS, False), (ONE_TOKEN, False)]
)
def test_features_after_import_are_those_of_the_source_tensors(
    tmp_path, tile, vit, shapes, with_config
):
    state = ldm_state(SMALL, shapes)
    ldm, pth, config = write_sources(tmp_path, state, vit, config_of(SMALL))
    card = import_model("lid", Sources(ldm, pth, config if with_config else None))

    context = tokens_of(state, vit_embedding(vit, to_signed(tile), heads=1))
    expected = expected_maps(state, to_signed(tile), context)
    assert card.features.conditioned and card.features.up_blocks == (1, 2, 3)
    assert_same(imported_maps("lid", tile), expected[1:])
    unconditioned = expected_maps(state, to_signed(tile), tokens_of(state, torch.zeros(1, 64)))
    assert max((a - b).abs().max() for a, b in zip(expected, unconditioned, strict=True)) > 1e-2


def test_latent_and_embedding_are_those_of_the_source_tensors(tmp_path, tile, vit):
    state = ldm_state(SMALL, ONE_TOKEN)
    ldm, pth, _ = write_sources(tmp_path, state, vit)
    card = import_model("parts", Sources(ldm, pth))
    backbone = load_backbone(models_home() / "parts", card)
    pixels = to_signed(tile)
    latent = vq_latent(within(state, "first_stage_model."), pixels)
    torch.testing.assert_close(backbone.autoencoder(pixels), latent, atol=1e-4, rtol=0)
    embedding = normalize(vit_embedding(vit, pixels, heads=1), dim=-1)
    torch.testing.assert_close(backbone.encoder(pixels), embedding, atol=1e-5, rtol=0)


def test_a_scale_factor_of_the_checkpoint_scales_the_latent(tmp_path, tile, vit):
    state = ldm_state(SMALL, ONE_TOKEN) | {"scale_factor": torch.tensor(0.5)}
    ldm, _, _ = write_sources(tmp_path, state, vit)
    source = read_latent_diffusion(ldm)
    assert convert_autoencoder(source).config.scaling_factor == 0.5


def test_averaged_weights_are_used_where_there_are_any_and_zoomldm_goes_without_a_condition(
    tmp_path, tile, vit
):
    state = ldm_state(SMALL, zoom_conditioner_shapes(SMALL.context), ema=True)
    ldm, pth, _ = write_sources(tmp_path, state, vit)
    torch.save(dict(state), ldm)  # ZoomLDM's file has no "state_dict" around its weights
    card = import_model("zoom", Sources(ldm, pth))

    nothing = torch.zeros(1, 65, SMALL.context)  # what its own training drops the condition to
    assert_same(
        imported_maps("zoom", tile),
        expected_maps(state, to_signed(tile), nothing, averaged=True)[1:],
    )
    assert not card.features.conditioned
    assert "UNI embeddings of 1024" in card.description
    assert card.training["unet weights"] == "exponential moving average"


def test_an_embedding_of_another_width_means_no_condition_and_the_card_says_so(tmp_path, tile, vit):
    state = ldm_state(SMALL, conditioner_shapes(80, SMALL.context))
    ldm, pth, _ = write_sources(tmp_path, state, vit)
    card = import_model("crc", Sources(ldm, pth))
    context = tokens_of(state, torch.zeros(1, 80))
    assert_same(imported_maps("crc", tile), expected_maps(state, to_signed(tile), context)[1:])
    assert not card.features.conditioned
    assert "embeddings of 80 numbers, but this encoder gives 64" in card.description


def test_an_encoder_trained_on_imagenets_pixels_takes_its_own_normalisation(tmp_path, tile, vit):
    state = ldm_state(SMALL, ONE_TOKEN)
    ldm, pth, _ = write_sources(tmp_path, state, vit)
    card = import_model("ibot", Sources(ldm, pth, pixels="imagenet"))
    backbone = load_backbone(models_home() / "ibot", card)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).reshape(2, 1, 3, 1, 1)
    normalised = (tile.permute(0, 3, 1, 2) / 255 - mean) / std
    expected = normalize(vit_embedding(vit, normalised, heads=1), dim=-1)
    torch.testing.assert_close(backbone.encoder(to_signed(tile)), expected, atol=1e-5, rtol=0)


def test_names_are_those_of_diffusers_own_conversion(tmp_path, vit):
    from diffusers.loaders.single_file_utils import (
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
    )

    state = ldm_state(SMALL, ONE_TOKEN)
    ldm, _, _ = write_sources(tmp_path, state, vit)
    source = read_latent_diffusion(ldm)
    unet, vq = convert_unet(source), convert_autoencoder(source)
    theirs = convert_ldm_unet_checkpoint(dict(state), dict(unet.config))
    assert_equal_states(unet.state_dict(), theirs)
    theirs = convert_ldm_vae_checkpoint(dict(state), dict(vq.config))
    codes = state["first_stage_model.quantize.embedding.weight"]
    assert_equal_states(vq.state_dict(), theirs | {"quantize.embedding.weight": codes})


def assert_equal_states(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_heads_per_level_come_from_the_configuration(tmp_path, vit):
    config = config_of(SMALL)
    settings = config["model"]["params"]["unet_config"]["params"]
    del settings["num_heads"]
    settings["num_head_channels"] = 32
    ldm, _, yaml_file = write_sources(tmp_path, ldm_state(SMALL, ONE_TOKEN), vit, config)
    unet = convert_unet(read_latent_diffusion(ldm, yaml_file))
    attention = unet.up_blocks[0].attentions[0].transformer_blocks[0].attn1
    assert attention.heads == 3  # 96 channels of 32 each


def test_the_card_says_what_it_is_made_of_and_the_weights_keep_their_precision(tmp_path, vit):
    ldm, pth, config = write_sources(tmp_path, ldm_state(SMALL, TWO_TOKENS), vit, config_of(SMALL))
    sources = Sources(ldm, pth, config, licences=("for research", "not to be passed on"))
    card = import_model("card", sources)
    assert card == read_card(find_model("card"))
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (ldm, config, pth)]
    assert list(card.sources.values()) == digests
    assert (card.mpp, card.tile_m, card.cell_m, card.heads) == (0.5, 256, 2, {})
    assert card.licence == "for research; not to be passed on"
    assert NoiseSchedule(**card.schedule) == NoiseSchedule(0.0015, 0.0195, 1000)
    assert "choices of this program" in card.training["ours"]
    stored = load_file(models_home() / "card/unet/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def test_half_weights_stay_half(tmp_path, vit):
    state = {k: v.half() for k, v in ldm_state(SMALL, ONE_TOKEN).items() if k != "betas"}
    ldm, pth, _ = write_sources(tmp_path, state, vit)
    import_model("half", Sources(ldm, pth))
    stored = load_file(models_home() / "half/unet/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_a_model_of_that_name_is_never_overwritten_unless_asked(tmp_path, vit):
    ldm, pth, _ = write_sources(tmp_path / "1", ldm_state(SMALL, ONE_TOKEN), vit)
    first = import_model("mine", Sources(ldm, pth))
    other, _, _ = write_sources(tmp_path / "2", ldm_state(SMALL, ONE_TOKEN, seed=5), vit)
    with pytest.raises(ModelError, match="there is a model mine already"):
        import_model("mine", Sources(other, pth))
    assert read_card(find_model("mine")) == first
    second = import_model("mine", Sources(other, pth), replace=True)
    assert read_card(find_model("mine")) == second != first
    assert [p.name for p in models_home().parent.iterdir()] == ["models"]


def test_a_failed_import_leaves_nothing_and_a_failed_replacement_the_old_one(tmp_path, vit):
    state = ldm_state(SMALL, ONE_TOKEN)
    ldm, pth, _ = write_sources(tmp_path / "good", state, vit)
    card = import_model("kept", Sources(ldm, pth))
    state.pop("model.diffusion_model.out.2.bias")
    bad, _, _ = write_sources(tmp_path / "bad", state, vit)
    for name in ("kept", "new"):
        with pytest.raises(ModelError, match=r"out\.2\.bias"):
            import_model(name, Sources(bad, pth), replace=True)
    assert [p.name for p in models_home().iterdir()] == ["kept"]
    assert read_card(find_model("kept")) == card


def test_a_saved_backbone_is_half_unless_told(tmp_path, vit):
    ldm, pth, _ = write_sources(tmp_path, ldm_state(SMALL, ONE_TOKEN), vit)
    card = import_model("whole", Sources(ldm, pth))
    save_backbone(tmp_path / "copy", load_backbone(models_home() / "whole", card))
    stored = load_file(tmp_path / "copy/conditioner.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_safetensors_are_read_as_well(tmp_path, vit):
    from safetensors.torch import save_file

    ldm, pth, _ = write_sources(tmp_path, ldm_state(SMALL, ONE_TOKEN), vit)
    card = import_model("pickled", Sources(ldm, pth))
    ldm_safe, vit_safe = tmp_path / "ldm.safetensors", tmp_path / "vit.safetensors"
    save_file(ldm_state(SMALL, ONE_TOKEN), ldm_safe)
    save_file(vit, vit_safe)
    assert import_model("safe", Sources(ldm_safe, vit_safe)).files == card.files


def test_a_linear_layer_takes_a_pointwise_convolution_but_no_larger_one():
    layer = torch.nn.Linear(3, 2)
    weights = {"weight": torch.ones(2, 3, 1, 1), "bias": torch.zeros(2)}
    assert fill(layer, str, weights, Path("x")).weight.shape == (2, 3)
    with pytest.raises(ModelError, match=r"weight is \[2, 3, 3, 3\] instead of \[2, 3\]"):
        fill(layer, str, weights | {"weight": torch.ones(2, 3, 3, 3)}, Path("x"))


@pytest.mark.slow
@pytest.mark.skipif(
    "PATHSEGDIFF_SLOW" not in os.environ, reason="takes minutes and 8 GB; set PATHSEGDIFF_SLOW=1"
)
def test_the_published_shape_is_read_and_computes_what_its_tensors_compute(tmp_path, tile):
    vit = random_weights(vit_shapes(PUBLISHED), seed=9)
    state = ldm_state(PUBLISHED, conditioner_shapes(384, 512, region=768))
    unet = within(state, "model.diffusion_model.")
    assert sum(tensor.numel() for tensor in unet.values()) == pytest.approx(400.92e6, rel=1e-4)
    ldm, pth, config = write_sources(tmp_path, state, vit, config_of(PUBLISHED))
    inferred = import_model("inferred", Sources(ldm, pth))
    assert import_model("published", Sources(ldm, pth, config)).files == inferred.files

    context = tokens_of(state, vit_embedding(vit, to_signed(tile), heads=6))
    expected = expected_maps(state, to_signed(tile), context)
    assert [m.shape[1] for m in expected] == [960, 576, 384, 192]
    assert_same(imported_maps("published", tile), expected[1:])
