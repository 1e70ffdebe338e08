"""Fine-tuning: the U-Net's decoder learns with the head, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import SPEC, halves, tiny_backbone, two_textures

from model import ModelError, load_segmenter, read_card
from model.cache import PatchPlan
from model.errors import DivergedError
from model.feature_choice import FeatureChoice
from model.feature_set import turned
from model.features import FeatureExtractor
from model.finetune import finetune, live_patches, start_afresh
from model.head import Head
from model.home import models_home
from model.lessons import Epoch, HeadTraining, Lessons, Trained
from model.library import verify_model
from model.new_head import HeadRequest, NewHead, train_new_head
from model.patches import patches_of
from model.weights import read_tensors

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = HeadTraining(steps=8, batch=4, learning_rate=5e-3, width=8, epoch_steps=4)
PLAN = PatchPlan(side_m=64, stride_m=48, margin_m=8)
UNET = "unet/diffusion_pytorch_model.safetensors"


def tuned(base: Path | None, **changes) -> NewHead:
    chosen = {"model": "tuned", "head": "dots", "base": base and str(base), "training": QUICK}
    request = HeadRequest(**(chosen | {"variants": 1, "finetune": True, "device": "cpu"} | changes))
    return train_new_head(request, two_textures(), lambda text: None)


@pytest.fixture(scope="module")
def made(tiny_model, tmp_path_factory) -> NewHead:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUPATH_PATHSEGDIFF_HOME", str(tmp_path_factory.mktemp("home")))
        return tuned(tiny_model, training=replace(QUICK, steps=60, epoch_steps=20))


def test_the_decoder_changes_and_all_the_rest_stays(tiny_model, made):
    before, after = (read_tensors(folder / UNET) for folder in (tiny_model, made.folder))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("up_blocks.") for name in changed)
    # The last layers of the last tapped block learn too.
    assert any(name.startswith("up_blocks.2.resnets.1.conv2") for name in changed)
    old, new = read_card(tiny_model).files, read_card(made.folder).files
    others = [name for name in old if not name.startswith(("heads/", "unet/diff"))]
    assert len(others) >= 6 and all(old[name] == new[name] for name in others)


def test_the_model_has_only_the_new_head_which_rests_on_the_new_base(tiny_model, made):
    card = read_card(made.folder)
    assert list(card.heads) == ["dots"]
    assert card.backbone != read_card(tiny_model).backbone
    assert card.heads["dots"].backbone == card.backbone
    assert {p.name for p in (made.folder / "heads").glob("*.safetensors")} == {
        "dots.safetensors",
        "dots.embeddings.safetensors",
    }


def test_it_loads_and_runs_with_what_it_learned(made):
    segmenter = load_segmenter(made.folder, device="cpu")
    read = halves(5, 64)
    probabilities = segmenter.probabilities(read.pixels[None], [(0, 0)])["dots"][0]
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    assert (probabilities.argmax(0) == read.codes[::2, ::2]).mean() > 0.8


def test_the_weights_keep_the_precision_that_they_had(tiny_model, made):
    assert (made.folder / UNET).stat().st_size == (tiny_model / UNET).stat().st_size


def test_an_existing_model_is_refused_since_its_heads_rest_on_the_unet(installed_tiny):
    with pytest.raises(
        ModelError, match=r"fine-tuning changes the U-Net itself.* choose a new name"
    ):
        tuned(installed_tiny, model="tiny")
    with pytest.raises(ModelError, match="choose a new name"):
        tuned(None, model="tiny")


def test_the_base_stays_as_it_is(tiny_model, made):
    from model.weights import verify_files

    verify_files(tiny_model, read_card(tiny_model))


def test_an_interruption_while_fine_tuning_leaves_no_model_and_goes_on_from_the_head(tiny_model):
    told: list[tuple[str, int]] = []

    def stop(stage: str, done: int, total: int) -> None:
        told.append((stage, done))
        if told.count(("train", 1)) == 2:
            raise KeyboardInterrupt

    chosen = {"base": str(tiny_model), "training": QUICK, "variants": 1, "finetune": True}
    request = HeadRequest("tuned", "dots", device="cpu", **chosen)
    with pytest.raises(KeyboardInterrupt):
        train_new_head(request, two_textures(), lambda text: None, stop)
    assert not (models_home() / "tuned").exists()
    steps: list[int] = []
    again = train_new_head(
        request,
        two_textures(),
        lambda text: None,
        lambda stage, done, total: steps.append(done) if stage == "train" else None,
    )
    assert steps == [1, 2, 3, 4]  # of fine-tuning alone: the head was kept
    assert verify_model("tuned").heads["dots"] == replace(
        again.card, backbone=read_card(again.folder).backbone
    )


def test_without_a_block_of_the_unet_there_is_nothing_to_fine_tune(tiny_model):
    with pytest.raises(ModelError, match="use no block of the U-Net"):
        tuned(tiny_model, features=FeatureChoice(blocks=()))
    assert not (models_home() / "tuned").exists()


def lessons_of(extractor: FeatureExtractor) -> Lessons:
    images = two_textures(3).images
    sides = (live_patches(extractor, some, PLAN) for some in (images[:2], images[2:]))
    return Lessons(*sides, 2)


def test_live_patches_are_the_extractors_features_turned_with_their_truth():
    extractor = FeatureExtractor(tiny_backbone(), SPEC).eval()
    patches = live_patches(extractor, two_textures(2).images, PLAN)
    assert len(patches) == 8 and patches.channels == extractor.channels
    with torch.no_grad():
        codes = patches.batch([5])[1]
        maps, told = patches.batch([5] * 16, np.random.default_rng(0))
    assert (codes[0].numpy() == patches.planes[5]).all()
    (patch,) = [p for p in patches_of(halves(1), (0, 0), 64, 48, 8) if p.origin_m == (32, 0)]
    seen = set()
    for number in range(16):
        way = next(w for w in range(8) if torch.equal(told[number], turned(codes[0], w)))
        seen.add(way)
        pixels = turned(torch.from_numpy(patch.pixels).permute(2, 0, 1), way).permute(1, 2, 0)
        with torch.no_grad():
            expected = extractor(pixels[None], [patch.origin_m])
        for one, other in zip(maps, expected, strict=True):
            torch.testing.assert_close(one[number], other[0], atol=1e-4, rtol=1e-4)
    assert len(seen) > 4


def test_nothing_is_left_to_learn_afterwards_even_after_an_error():
    extractor = FeatureExtractor(tiny_backbone(), SPEC).eval()
    head = Head(extractor.channels, 2, 8)

    def stop(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(extractor, head, lessons_of(extractor), QUICK, stop)
    assert not any(p.requires_grad for p in extractor.parameters())


def test_a_unet_that_starts_afresh_has_other_weights_that_a_seed_decides():
    first, second, third = (tiny_backbone().unet for _ in range(3))
    before = [p.clone() for p in first.parameters() if p.ndim > 1]
    for unet, seed in ((first, 1), (second, 1), (third, 2)):
        start_afresh(unet, seed)
    pairs = zip(first.parameters(), second.parameters(), third.parameters(), strict=True)
    triples = [triple for triple in pairs if triple[0].ndim > 1]
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in triples)
    assert not any(torch.equal(a, old) for (a, _, _), old in zip(triples, before, strict=True))


def test_fine_tuning_that_is_no_better_keeps_the_frozen_head_and_unet_and_says_so(
    tiny_model, monkeypatch
):
    said: list[str] = []
    request = HeadRequest(
        "kept", "dots", str(tiny_model), training=QUICK, variants=1, finetune=True, device="cpu"
    )
    worse = [replace(row, mean_dice=-1.0) for row in (Epoch(1, 0.1, 0.1, 0.1),)]

    def spoiling(extractor, head, lessons, settings, tell) -> Trained:
        for p in [*extractor.backbone.unet.up_blocks.parameters(), *head.parameters()]:
            p.data.add_(1)
        return Trained(head, worse, 1)

    monkeypatch.setattr("model.finetune.finetune", spoiling)
    made = train_new_head(request, two_textures(), said.append)
    assert not made.tuned and "fine-tuning was no better, so the frozen U-Net" in said[-1]
    assert made.card.training["fine-tuning"] == said[-1]
    before, after = (read_tensors(folder / UNET) for folder in (tiny_model, made.folder))
    assert all(torch.equal(before[name], after[name]) for name in before)
    plain = train_new_head(
        replace(request, model="plain", finetune=False), two_textures(), said.append
    )
    heads = [(m.folder / "heads/dots.safetensors").read_bytes() for m in (made, plain)]
    assert heads[0] == heads[1]
    assert set(verify_model("kept").heads) == {"first", "dots"}  # the base's heads fit still


def test_fine_tuning_that_diverges_keeps_the_frozen_head(tiny_model, monkeypatch):
    def diverges(*args: object) -> Trained:
        raise DivergedError("the loss is not a number at step 1")

    monkeypatch.setattr("model.finetune.finetune", diverges)
    made = tuned(tiny_model, model="saved")
    assert not made.tuned and "not a number at step 1" in made.trained.note
    verify_model("saved")


def test_fine_tuning_that_is_better_says_by_how_much(made):
    assert made.tuned and "fine-tuning was better: held-out mean Dice" in made.trained.note
    assert made.summary().startswith("head fine-tuned on")
