"""The card of a model, format 2: what it keeps, what its digests depend on, what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import CLASSES, SPEC

from model import ModelError, load_segmenter, read_card
from model.card import HeadCard, write_card
from model.weights import load_backbone


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "tiny"))


def change(folder: Path, **fields) -> Path:
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    (folder / "card.json").write_text(json.dumps(card | fields), encoding="utf-8")
    return folder


def test_what_was_written_is_read_again(folder):
    card = read_card(folder)
    head = replace(
        card.heads["first"],
        description="Größe",
        scores={"Dice": 0.5},
        training={"data": "Bäume", "train": ["a", "b"]},
    )
    written = replace(
        card,
        heads={"second": head},
        features=replace(card.features, timesteps=(1, 2), joined=True, conditioned=False),
        sources={"a.ckpt": "00"},
    )
    write_card(folder, written)
    assert read_card(folder) == written
    assert [p.name for p in folder.glob("*.part")] == []


def test_the_base_is_the_same_whatever_the_name_and_the_heads(folder):
    card = read_card(folder)
    other = replace(card, name="other", heads={}, description="", training={"a": 1})
    files = {k: v for k, v in card.files.items() if not k.startswith("heads/")}
    assert replace(other, files=files).backbone == card.backbone
    assert other.fingerprint != card.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"mpp": 0.25},
        {"schedule": {"timesteps": 500}},
        {"features": replace(SPEC, conditioned=False)},
        {"features": replace(SPEC, noise_seed=1)},
        {"features": replace(SPEC, timesteps=(50, 60))},
        {"features": replace(SPEC, stem=None)},
        {"files": {"unet/config.json": "00"}},
    ],
)
def test_the_base_is_another_where_features_would_be(tiny_model, change):
    card = read_card(tiny_model)
    assert replace(card, **change).backbone != card.backbone


def test_the_base_is_the_same_before_and_after_a_file(folder):
    in_memory = replace(read_card(folder), features=SPEC)
    write_card(folder, in_memory)
    assert read_card(folder).backbone == in_memory.backbone


def test_a_score_that_is_no_number_is_null_and_the_card_plain_json(folder):
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    card = read_card(folder)
    head = replace(card.heads["first"], scores={"Tumor": float("nan"), "Stroma": 0.5})
    write_card(folder, replace(card, heads={"first": head}))
    text = (folder / "card.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse)["heads"]["first"]["scores"]["Tumor"] is None
    assert read_card(folder).heads["first"].scores == {"Tumor": None, "Stroma": 0.5}


def test_a_model_without_heads_says_what_to_do(tiny_model):
    card = replace(read_card(tiny_model), heads={})
    with pytest.raises(ModelError, match=r"tiny has no heads yet; train one: .* train --help"):
        card.choose_heads(None)


def test_heads_come_in_the_cards_order_and_unknown_ones_are_named(tiny_model):
    card = read_card(tiny_model)
    card = replace(card, heads=dict.fromkeys(("b", "a", "c"), card.heads["first"]))
    assert card.choose_heads(["c", "b"]) == ["b", "c"] and card.choose_heads(None) == [*"bac"]
    with pytest.raises(ModelError, match="no head 'x', 'y'; it has: b, a, c"):
        card.choose_heads(["x", "a", "y"])


@pytest.mark.parametrize(
    "changed",
    [
        {"mpp": 0},
        {"cell_m": 0},
        {"margin_m": 32},
        {"features": {}},
        {"features": {"timesteps": [50], "up_blocks": [0], "colour": 1}},
        {"features": {"timesteps": ["a"], "up_blocks": [0]}},
        {"heads": {"a": {}}},
        {"heads": []},
        {"surprise": 1},
    ],
)
def test_a_malformed_card_is_one_clear_error(folder, changed):
    with pytest.raises(ModelError, match=r"card\.json is incomplete or malformed"):
        read_card(change(folder, **changed))


def test_an_older_format_says_what_to_do(folder):
    with pytest.raises(ModelError, match="of card format 1, this program reads 2; update"):
        read_card(change(folder, format=1))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"timesteps": (50, 1000)}, r"timesteps 0 to 999; .* timesteps \[1000\]"),
        ({"timesteps": ()}, r"timesteps \[\]"),
        ({"up_blocks": (0, 3)}, r"decoder blocks 0 to 2 .* got blocks \[3\]"),
        ({"up_blocks": (-1,)}, r"got blocks \[-1\]"),
        ({"up_blocks": (), "stem": None}, "needs features: name a decoder block, or keep the stem"),
        ({"stem": {"taps": [9]}}, "stem"),
    ],
)
def test_features_that_the_networks_have_not_are_refused(tiny_model, spec, says):
    card = read_card(tiny_model)
    with pytest.raises(ModelError, match=says):
        load_backbone(tiny_model, replace(card, features=replace(SPEC, **spec)))


@pytest.mark.parametrize(
    "schedule", [{"steps": 5}, {"timesteps": "many"}, {"beta_end": "b"}, {"timesteps": 0}]
)
def test_a_schedule_that_is_not_known_is_one_clear_error(tiny_model, schedule):
    with pytest.raises(ModelError, match="schedule"):
        load_backbone(tiny_model, replace(read_card(tiny_model), schedule=schedule))


def test_a_head_for_another_base_is_refused_with_one_sentence(folder):
    card = read_card(folder)
    assert card.heads["first"].backbone == card.backbone
    stranger = replace(card.heads["first"], backbone="0" * 64)
    write_card(folder, replace(card, heads={"first": stranger, "own": card.heads["first"]}))
    with pytest.raises(ModelError, match=r"head first was trained on another base.*train it again"):
        load_segmenter(folder, device="cpu")


def test_a_head_that_does_not_say_its_base_is_taken_at_its_word(folder):
    card = read_card(folder)
    head = HeadCard(CLASSES, card.heads["first"].feature_channels, card.heads["first"].width)
    write_card(folder, replace(card, heads={"first": head}))
    assert load_segmenter(folder, device="cpu").heads == ["first"]
