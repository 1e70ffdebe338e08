"""A new head in a model folder: whole or not at all, beside those that were there."""

from __future__ import annotations

import csv
import datetime
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import TEXTURES, halves, image_of, two_textures, write_tiny_model

from model import ModelError, load_segmenter, read_card
from model.card import write_card
from model.feature_choice import FeatureChoice
from model.feature_set import FeatureSet
from model.home import installed_models, models_home
from model.labels import IGNORED, LabelSet
from model.lessons import HeadTraining
from model.library import verify_model
from model.new_head import HeadRequest, NewHead, train_new_head
from model.novelty import load_embeddings
from model.weights import STEM_WEIGHTS, read_tensors, seal

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = HeadTraining(steps=12, batch=4, learning_rate=5e-3, width=8, epoch_steps=4)


def ask(base: Path | str | None, **changes) -> HeadRequest:
    settings = {"model": "mine", "head": "dots", "training": QUICK, "variants": 1}
    return HeadRequest(**(settings | {"base": base and str(base), "device": "cpu"} | changes))


def train(request: HeadRequest, labels: LabelSet | None = None, tell=None) -> NewHead:
    said: list[str] = []
    more = () if tell is None else (tell,)
    made = train_new_head(request, labels or two_textures(), said.append, *more)
    assert len(said) == 1 and "3 images to train on, 1 held out" in said[0]
    return made


def interrupt(stage: str, at: int, error: type[BaseException] = KeyboardInterrupt):
    def tell(now: str, done: int, total: int) -> None:
        if (now, done) == (stage, at):
            raise error

    return tell


def left_behind() -> list[str]:
    """Return what lies in the home that is neither cache nor training to go on with."""
    home = models_home().parent
    found = [p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file()]
    return [p for p in found if not p.startswith(("cache/", "models/.training/"))]


def test_a_head_and_all_that_is_known_of_it_are_in_the_model(tiny_model):
    made = train(ask(tiny_model))
    assert made.folder == models_home() / "mine"
    card = verify_model("mine")
    assert card.name == "mine" and set(card.heads) == {"first", "dots"}
    head = card.heads["dots"]
    assert head == made.card or head == replace(made.card, backbone=card.backbone)
    assert head.classes == TEXTURES and head.backbone == card.backbone
    told = head.training
    assert told["data"] == "4 drawn textures" and told["held out by"] == "group"
    assert told["pixels per class"] == {"Plain": 4 * 96 * 48, "Dotted": 4 * 96 * 48}
    assert len(told["train"]) == 3 and len(told["held out"]) == 1
    assert set(told["train"] + told["held out"]) == {f"image {n}" for n in range(4)}
    assert told["settings"]["steps"] == 12 and told["settings"]["seed"] == 0
    assert told["date"] == datetime.date.today().isoformat()
    best = made.trained.curve[told["best epoch"] - 1]
    assert list(head.scores.values()) == [round(best.mean_dice, 4)]
    assert f"epoch {best.epoch} of 3" in made.summary()


def test_the_learning_curve_is_a_table_and_a_picture(tiny_model):
    made = train(ask(tiny_model))
    heads = made.folder / "heads"
    with (heads / "dots.curve.tsv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for row, epoch in zip(rows, made.trained.curve, strict=True):
        assert float(row["train_loss"]) == pytest.approx(epoch.train_loss, abs=1e-4)
        assert float(row["mean_dice"]) == pytest.approx(epoch.mean_dice, abs=1e-4)
    with Image.open(heads / "dots.curve.png") as picture:
        assert picture.size[0] > 500 and len(picture.convert("L").getcolors()) > 10


def test_embeddings_of_the_training_patches_are_kept(tiny_model):
    made = train(ask(tiny_model))
    known = load_embeddings(made.folder, "dots")
    assert known.shape == (3 * 4, 16)
    np.testing.assert_allclose(np.linalg.norm(known, axis=1), 1, atol=1e-3)
    assert load_embeddings(made.folder, "first") is None
    assert "heads/dots.embeddings.safetensors" in read_card(made.folder).files


def test_the_head_in_the_folder_gives_what_was_measured(tiny_model):
    made = train(ask(tiny_model, training=replace(QUICK, steps=60, epoch_steps=20)))
    segmenter = load_segmenter(made.folder, ["dots"], "cpu")
    read = halves(7, 64)
    found = segmenter.probabilities(read.pixels[None], [(0, 0)])["dots"][0].argmax(0)
    assert (found == read.codes[::2, ::2]).mean() > 0.85


def test_another_head_leaves_the_first_as_it_was(tiny_model):
    made = train(ask(tiny_model))
    tile = halves(7, 64).pixels[None]
    before = load_segmenter(made.folder, device="cpu").probabilities(tile, [(0, 0)])
    card = read_card(made.folder)
    files = {p.name: p.read_bytes() for p in (made.folder / "heads").iterdir()}
    train(ask(None, head="more", training=replace(QUICK, seed=5)))
    after = load_segmenter(made.folder, device="cpu")
    assert after.heads == ["dots", "more"]  # the base's own heads wait for a request
    assert list(after.card.heads) == ["first", "dots", "more"]
    for name, probabilities in before.items():
        np.testing.assert_array_equal(after.probabilities(tile, [(0, 0)])[name], probabilities)
        assert after.card.heads[name] == card.heads[name]
    for name, content in files.items():
        assert (made.folder / "heads" / name).read_bytes() == content
    assert not list((models_home() / ".training").glob("*"))


def test_the_base_itself_is_not_changed(installed_tiny):
    before = {p: p.read_bytes() for p in installed_tiny.rglob("*") if p.is_file()}
    train(ask("tiny"))
    assert before == {p: p.read_bytes() for p in installed_tiny.rglob("*") if p.is_file()}
    assert [p.name for p in installed_models()[1:]] == ["mine", "tiny"]


def test_a_head_trained_again_takes_the_place_of_the_first(tiny_model):
    train(ask(tiny_model))
    again = train(ask(None, training=replace(QUICK, steps=4)))
    assert list(read_card(again.folder).heads) == ["first", "dots"]
    assert read_card(again.folder).heads["dots"].training["settings"]["steps"] == 4


def test_fewer_features_leave_the_heads_of_all_of_them_behind(tiny_model):
    fewer = FeatureChoice(blocks=(1,), stem=False)
    made = train(ask(tiny_model, features=fewer))
    card = verify_model("mine")
    spec = replace(read_card(tiny_model).features, up_blocks=(1,), stem=None)
    assert list(card.heads) == ["dots"] and card.features == spec
    assert card.heads["dots"].feature_channels == (16,)
    assert sorted(p.name for p in (made.folder / "heads").glob("*.safetensors")) == [
        "dots.embeddings.safetensors",
        "dots.safetensors",
    ]
    with pytest.raises(ModelError, match="another base or other features than tiny"):
        train(ask(tiny_model, head="more"))


def test_a_model_without_a_stem_can_be_given_the_shipped_ones(tiny_model, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(tiny_model, plain)
    (plain / STEM_WEIGHTS).unlink()
    card = read_card(plain)
    seal(plain, replace(card, features=replace(card.features, stem=None), heads={}))
    for head in ("dots", "more"):  # the second finds the base that the first made
        train(ask(plain, head=head, features=FeatureChoice(stem=True)))
    card = verify_model("mine")
    assert list(card.heads) == ["dots", "more"] and STEM_WEIGHTS in card.files
    assert {head.backbone for head in card.heads.values()} == {card.backbone}
    assert load_segmenter(models_home() / "mine", device="cpu").heads == ["dots", "more"]


def test_a_head_on_another_base_under_the_same_name_is_refused(tiny_model, tmp_path):
    train(ask(tiny_model))
    write_tiny_model(tmp_path / "other", "other", seed=9)
    before = read_card(models_home() / "mine")
    with pytest.raises(ModelError, match="mine rests on another base or other features than other"):
        train(ask(tmp_path / "other", head="more"))
    assert read_card(models_home() / "mine") == before


def test_a_head_carried_over_to_another_base_is_refused_when_it_is_loaded(tiny_model, tmp_path):
    made = train(ask(tiny_model))
    write_tiny_model(tmp_path / "other", "other", seed=9)
    shutil.copy(made.folder / "heads" / "dots.safetensors", tmp_path / "other" / "heads")
    card = read_card(tmp_path / "other")
    stranger = read_card(made.folder).heads["dots"]
    write_card(tmp_path / "other", replace(card, heads={**card.heads, "dots": stranger}))
    assert load_segmenter(tmp_path / "other", ["first"], "cpu").heads == ["first"]
    with pytest.raises(ModelError, match="head dots was trained on another base than model other"):
        load_segmenter(tmp_path / "other", ["dots"], "cpu")


@pytest.mark.parametrize(("stage", "at"), [("features", 2), ("train", 1), ("train", 7)])
def test_an_interrupted_run_leaves_no_half_model_and_goes_on(tiny_model, stage, at):
    whole = train(ask(tiny_model, model="whole"))
    with pytest.raises(KeyboardInterrupt):
        train(ask(tiny_model), tell=interrupt(stage, at))
    assert not (models_home() / "mine").exists()
    assert all(p.startswith("models/whole/") for p in left_behind())
    rest = train(ask(tiny_model))
    for name in ("dots.safetensors", "dots.embeddings.safetensors", "dots.curve.tsv"):
        both = [(m.folder / "heads" / name).read_bytes() for m in (whole, rest)]
        assert both[0] == both[1]
    assert not list((models_home() / ".training").glob("*"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interruption_while_it_is_put_in_place_leaves_the_model_as_it_was(
    tiny_model, monkeypatch, error
):
    made = train(ask(tiny_model))
    before = {p: p.read_bytes() for p in made.folder.rglob("*") if p.is_file()}

    def stopped(*args: object) -> None:
        raise error

    monkeypatch.setattr("model.new_head.write_curve", stopped)
    expected = KeyboardInterrupt if error is KeyboardInterrupt else ModelError
    with pytest.raises(expected):
        train(ask(None, head="more"))
    assert before == {p: p.read_bytes() for p in made.folder.rglob("*") if p.is_file()}
    assert all(p.startswith("models/mine/") for p in left_behind())


def test_a_loss_that_is_no_number_keeps_the_best_head_and_says_so(tiny_model, monkeypatch):
    batch, batches = FeatureSet.batch, []

    def spoiled(self, indices, rng=None):
        maps, codes = batch(self, indices, rng)
        batches.append(rng is not None)
        return [m * math.nan if sum(batches) > 6 else m for m in maps], codes

    monkeypatch.setattr(FeatureSet, "batch", spoiled)
    with pytest.raises(ModelError, match=r"not a number at step 7; .* head of epoch 1 was") as told:
        train(ask(tiny_model))
    assert "\n" not in str(told.value)
    card = verify_model("mine")
    assert card.heads["dots"].training["best epoch"] == 1
    weights = read_tensors(models_home() / "mine" / "heads" / "dots.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_loss_that_is_never_a_number_makes_no_model(tiny_model):
    request = ask(tiny_model, training=replace(QUICK, learning_rate=1e30))
    with pytest.raises(ModelError, match=r"not a number at step \d; lower the learning rate"):
        train(request)
    assert left_behind() == []


@pytest.mark.parametrize("name", ["", "a b", "ä", "../x", "a.b", "-a", "x" * 41, "a/b"])
def test_a_name_that_no_head_can_have_is_refused(name):
    with pytest.raises(ModelError, match="cannot name a head: use letters"):
        ask(None, head=name)


@pytest.mark.parametrize("name", ["default", "", "a b", "../x", "..", ".hidden", "x" * 65])
def test_a_name_that_no_model_can_have_is_refused(tiny_model, name):
    with pytest.raises(ModelError, match=r"cannot name a model|is the shipped one"):
        train(ask(tiny_model, model=name))
    assert left_behind() == []


def test_a_folder_that_is_no_model_is_not_touched(tiny_model):
    (models_home() / "mine").mkdir(parents=True)
    (models_home() / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="mine is there and is no model; choose another name"):
        train(ask(tiny_model))
    assert left_behind() == ["models/mine/notes.txt"]


def test_a_base_that_is_not_there_is_named(tiny_model):
    with pytest.raises(ModelError, match="no model 'nosuch'"):
        train(ask("nosuch"))


def test_labels_that_cannot_be_trained_on_are_refused_before_anything_is_computed(tiny_model):
    one_class = LabelSet(TEXTURES[:1], two_textures().images, "one")
    with pytest.raises(ModelError, match="two classes at least"):
        train(ask(tiny_model), one_class)
    single = LabelSet(TEXTURES, two_textures(1).images, "single")
    with pytest.raises(ModelError, match="none is left to validate with"):
        train(ask(tiny_model), single)
    assert left_behind() == [] and not (models_home().parent / "cache").exists()


def test_labels_in_the_last_pixels_alone_are_one_clear_error(tiny_model):
    """So near to the far edge that no patch on the lattice reaches them."""
    images = []
    for number in range(4):
        read = halves(number, 78)
        read.codes[:76] = IGNORED
        read.codes[76:, ::2] = 1 - read.codes[77, 0]
        images.append(image_of(str(number), read))
    with pytest.raises(ModelError, match="no patch has a label"):
        train(ask(tiny_model), LabelSet(TEXTURES, images, "edges"))
    assert left_behind() == []


def test_few_images_are_stained_several_times_and_many_once(tiny_model):
    from model.cache import PatchPlan
    from model.new_head import _patch_plan

    card, labels = read_card(tiny_model), two_textures()
    few = _patch_plan(ask(None, variants=0), card, 3, labels)
    assert few == PatchPlan(64, 48, 8, 4, 0)
    assert _patch_plan(ask(None, variants=0), card, 3000, labels).variants == 1
    assert _patch_plan(ask(None, variants=7), card, 3000, labels).variants == 7


@pytest.mark.parametrize("there", [True, False])
def test_a_head_that_another_command_put_in_meanwhile_is_not_lost(tiny_model, monkeypatch, there):
    base = None if there else tiny_model
    if there:
        train(ask(tiny_model, head="old"))
    write, overtaken = save_head_of_new_head(), []

    def overtake(*args: object) -> None:
        if not overtaken:
            overtaken.append(True)
            train(ask(base, head="theirs"))
        write(*args)

    monkeypatch.setattr("model.new_head.save_head", overtake)
    with pytest.raises(ModelError, match=r"another command has (made|changed) the model mine"):
        train(ask(base, head="ours"))
    assert set(verify_model("mine").heads) == {"first", "theirs"} | ({"old"} if there else set())
    steps = []
    train(ask(None, head="ours") if there else ask(tiny_model, head="ours"), tell=steps_into(steps))
    assert steps == []  # it went on from where it stood: at the end
    assert {"theirs", "ours"} <= set(verify_model("mine").heads)
    assert all(p.startswith("models/mine/") for p in left_behind())


def save_head_of_new_head():
    from model.weights import save_head

    return save_head


def steps_into(found: list[int]):
    return lambda stage, done, total: found.append(done) if stage == "train" else None
