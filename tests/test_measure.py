"""A head of a model folder on labelled images: files, figures, and what is not measured."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import TEXTURES, halves, image_of, two_textures

from model import ModelError, read_card
from model.card import HeadClass
from model.evaluate import evaluate, summarise
from model.labels import IGNORED, LabelSet
from model.lessons import HeadTraining
from model.measure import Measuring, gland_reading, head_predictor, measure_head, short_table
from model.metrics import pixel_scores
from model.new_head import HeadRequest, train_new_head

UNSEEN = [image_of(f"unseen {n}", halves(n, 96)) for n in range(20, 23)]


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory) -> Path:
    """Return a model whose head `dots` can tell the textures."""
    settings = HeadTraining(steps=60, batch=4, learning_rate=5e-3, width=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUPATH_PATHSEGDIFF_HOME", str(tmp_path_factory.mktemp("home")))
        request = HeadRequest("mine", "dots", str(tiny_model), training=settings, variants=1)
        return train_new_head(request, two_textures(), lambda text: None).folder


def measure(folder: Path, labels: LabelSet, output: Path, **changes) -> tuple[str, list[str]]:
    said: list[str] = []
    how = replace(Measuring(folder, "dots", "cpu"), **changes)
    return measure_head(how, labels, output, said.append), said


def test_tables_pictures_and_the_worst_images_are_written(folder, tmp_path):
    table, said = measure(folder, LabelSet(TEXTURES, UNSEEN, "unseen"), tmp_path / "out")
    assert said == []
    names = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert {"per_class.tsv", "per_image.tsv", "confusion.tsv", "summary.json"} <= names
    assert {"confusion.png", "per_class.png"} <= names
    assert sum(name.startswith("worst/worst_0") for name in names) == 3
    lines = table.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["Plain", "Dotted"]
    assert lines[-1] == "3 images"


def test_the_figures_are_those_of_the_predicted_classes(folder, tmp_path):
    table, _ = measure(folder, LabelSet(TEXTURES, UNSEEN, "unseen"), tmp_path)
    predictor = head_predictor(Measuring(folder, "dots", "cpu"), read_card(folder))
    counts = np.zeros((2, 2), np.int64)
    for image in UNSEEN:
        read = image.read()
        found = predictor(read.pixels, (0, 0)).argmax(0)
        np.add.at(counts, (read.codes, found), 1)
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    accuracy = np.trace(counts) / counts.sum()
    assert accuracy > 0.85
    assert summary["overall"]["accuracy"]["value"] == pytest.approx(accuracy, abs=1e-6)
    dice = pixel_scores(counts[None])["dice"][0]
    assert f"{dice[0]:.3f}" in table.splitlines()[1]
    with (tmp_path / "confusion.tsv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines, delimiter="\t"))
    assert [[int(cell) for cell in row[1:]] for row in rows[1:]] == counts.tolist()


def test_classes_are_matched_by_name_and_unknown_ones_are_said_and_not_measured(folder, tmp_path):
    classes = (HeadClass("Nerve", (1, 2, 3)), TEXTURES[1], TEXTURES[0])
    images = []
    for image in UNSEEN:
        read = image.read()
        codes = np.array([2, 1], np.uint8)[read.codes]
        codes[:10] = 0
        images.append(image_of(image.name, replace(read, codes=codes)))
    _, said = measure(folder, LabelSet(classes, images, "others"), tmp_path / "a")
    assert said == ["not measured, since the head does not know them: Nerve"]
    plain = []
    for image in UNSEEN:
        read = image.read()
        codes = read.codes.copy()
        codes[:10] = IGNORED
        plain.append(image_of(image.name, replace(read, codes=codes)))
    measure(folder, LabelSet(TEXTURES, plain, "plain"), tmp_path / "b")
    one, other = ((tmp_path / n / "per_image.tsv").read_text("utf-8") for n in "ab")
    assert one == other


def test_labels_of_which_the_head_knows_none_are_one_clear_error(folder, tmp_path):
    labels = LabelSet((HeadClass("Nerve", (1, 2, 3)), HeadClass("Fat", (1, 2, 4))), UNSEEN, "BCSS")
    with pytest.raises(ModelError, match="BCSS is labelled as Nerve, Fat; the head knows Plain"):
        measure(folder, labels, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_that_is_not_there_is_named(folder, tmp_path):
    with pytest.raises(ModelError, match="no head 'nosuch'; it has: first, dots"):
        measure(folder, two_textures(), tmp_path, head="nosuch")


def test_progress_is_told_for_every_image(folder, tmp_path):
    told: list[tuple[str, int, int]] = []
    labels = LabelSet(TEXTURES, UNSEEN, "unseen")
    how = Measuring(folder, "dots", "cpu")
    measure_head(how, labels, tmp_path, print, lambda *progress: told.append(progress))
    assert told == [("measure", n, 3) for n in (1, 2, 3)]


def test_more_images_than_the_cache_holds_can_be_measured(folder, tmp_path):
    labels = LabelSet(TEXTURES, UNSEEN, "unseen")
    roomy, _ = measure(folder, labels, tmp_path / "a")
    tight, _ = measure(folder, labels, tmp_path / "b", cache_gib=0.003)
    assert tight == roomy


def test_glands_are_read_from_heads_that_have_them():
    gland, border = HeadClass("Gland", (1, 1, 1)), HeadClass("Gland border", (2, 2, 2))
    assert gland_reading(TEXTURES, 0.5) is None
    plain = gland_reading([TEXTURES[0], gland], 0.5)
    assert (plain.gland, plain.border, plain.mpp) == (1, None, 0.5)
    both = gland_reading([border, TEXTURES[0], gland], 0.25)
    assert (both.gland, both.border, both.mpp) == (2, 0, 0.25)


def test_the_short_table_shows_every_score_and_its_interval():
    evaluation = evaluate(
        lambda pixels, origin: np.stack([np.ones(pixels.shape[:2]), np.zeros(pixels.shape[:2])]),
        LabelSet(TEXTURES, UNSEEN, "unseen"),
    )
    lines = short_table(evaluation, summarise(evaluation)).splitlines()
    plain = lines[1].split()  # all is taken for plain, and half is
    assert plain[0] == "Plain" and float(plain[1]) == pytest.approx(2 / 3, abs=1e-3)
    assert plain[2:5:2] == [plain[1], plain[1]]
    assert [float(word) for word in plain[5:]] == [0.5, 0.5, 1.0]
    assert {line.split()[0] for line in lines[3:-1]} == {"accuracy", "mean_dice", "mean_iou"}
    assert math.isfinite(float(lines[3].split()[1]))
