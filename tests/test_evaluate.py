import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model.card import HeadClass
from model.errors import ModelError
from model.evaluate import Evaluation, evaluate, image_scores, summarise, worst_images
from model.evaluation_files import PICTURES, summary_json, write_evaluation
from model.instances import GlandReading, border_codes
from model.labels import IGNORED, LabelledImage, LabelledPixels, LabelSet
from model.metrics import Resampling
from model.overlays import FOUND, TRUTH, draw_worst

CLASSES = (
    HeadClass("Background", (255, 255, 255), detections=False),
    HeadClass("Gland", (0, 120, 200)),
    HeadClass("Gland border", (0, 60, 100)),
)
GLANDS = GlandReading(mpp=0.5, min_object_um2=10, min_core_um2=2)
QUICK = Resampling(resamples=200)


def image(name: str, codes: np.ndarray, instances: np.ndarray | None = None) -> LabelledImage:
    """Return an image whose red is its name's number and whose green is its truth."""
    pixels = np.zeros((*codes.shape, 3), np.uint8)
    pixels[..., 1] = codes
    return LabelledImage(
        name, "slide " + name, lambda: LabelledPixels(pixels, codes, instances), origin_m=(3, 5)
    )


def two_glands(shift: int = 0) -> np.ndarray:
    instances = np.zeros((40, 60), np.int32)
    instances[8:30, 5 + shift : 25 + shift] = 1
    instances[8:30, 25 + shift : 50] = 2
    return instances


def gland_set(count: int = 4) -> LabelSet:
    truths = [two_glands(shift) for shift in range(count)]
    images = [image(f"{i}.png", border_codes(t, 2), t) for i, t in enumerate(truths)]
    return LabelSet(CLASSES, images, "drawn glands")


def sure(codes: np.ndarray) -> np.ndarray:
    return (codes[None] == np.arange(len(CLASSES))[:, None, None]).astype(np.float32)


def knows_all(pixels: np.ndarray, origin_m: tuple[int, int]) -> np.ndarray:
    return sure(np.where(pixels[..., 1] == IGNORED, 0, pixels[..., 1]))


def sees_nothing(pixels: np.ndarray, origin_m: tuple[int, int]) -> np.ndarray:
    return sure(np.zeros(pixels.shape[:2], np.uint8))


def misses_the_top(pixels: np.ndarray, origin_m: tuple[int, int]) -> np.ndarray:
    codes = pixels[..., 1].copy()
    codes[: 10 + codes.sum() % 7] = 0
    return sure(codes)


def test_who_knows_all_scores_one_everywhere():
    summary = summarise(evaluate(knows_all, gland_set(), GLANDS), QUICK)
    for score in (*summary.per_class.values(), *summary.overall.values()):
        np.testing.assert_array_equal(score.value, 1)
        np.testing.assert_array_equal(score.low, 1)
    values = {name: float(score.value) for name, score in summary.glands.items()}
    # The watershed meets within a pixel of where the glands touch.
    far = values.pop("object_hausdorff_um")
    assert far <= 0.5
    assert values.pop("object_hausdorff_glas_px") == pytest.approx(far / 0.62005)
    assert values.pop("object_dice") > 0.99
    assert set(values.values()) == {1}


def test_who_sees_nothing_finds_no_gland_and_is_not_undefined():
    summary = summarise(evaluate(sees_nothing, gland_set(), GLANDS), QUICK)
    values = {name: float(score.value) for name, score in summary.glands.items()}
    assert values["gland_dice"] == values["object_f1"] == values["object_dice"] == 0
    assert np.isfinite(values["object_hausdorff_um"])
    assert np.isnan(summary.per_class["precision"].value[1])


def test_the_predictor_is_given_pixels_and_their_place():
    seen = []

    def predict(pixels: np.ndarray, origin_m: tuple[int, int]) -> np.ndarray:
        seen.append((pixels.dtype, pixels.shape, origin_m))
        return knows_all(pixels, origin_m)

    evaluate(predict, gland_set(1))
    assert seen == [(np.uint8, (40, 60, 3), (3, 5))]


def test_dice_of_all_pixels_and_mean_over_images_are_two_things():
    large, small = np.ones((40, 40), np.uint8), np.ones((4, 4), np.uint8)
    labelled = LabelSet(CLASSES, [image("a", large), image("b", small)], "two sizes")

    def predict(pixels: np.ndarray, origin_m: tuple[int, int]) -> np.ndarray:
        return sure(pixels[..., 1] if len(pixels) == 40 else 0 * pixels[..., 1])

    summary = summarise(evaluate(predict, labelled), QUICK)
    assert summary.per_class["dice"].value[1] == pytest.approx(2 * 1600 / (2 * 1600 + 16))
    assert summary.per_class["image_dice"].value[1] == pytest.approx(0.5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.floats(0.05, 0.6))
def test_what_is_predicted_where_nothing_is_known_changes_no_count(seed, share):
    rng = np.random.default_rng(seed)
    truth = two_glands()
    hidden = rng.random(truth.shape) < share
    hidden[10:20, 20:30] = True
    codes = np.where(hidden, IGNORED, border_codes(truth, 2)).astype(np.uint8)
    labelled = LabelSet(CLASSES, [image("a", codes, truth)], "partly known")
    first = sure(rng.integers(0, 3, truth.shape))
    second = np.where(hidden, sure(rng.integers(0, 3, truth.shape)), first)
    one, other = (evaluate(lambda *_, p=p: p, labelled, GLANDS) for p in (first, second))
    np.testing.assert_array_equal(one.confusions, other.confusions)
    np.testing.assert_array_equal(one.glands.pixels, other.glands.pixels)
    np.testing.assert_array_equal(one.glands.objects, other.glands.objects)


def test_images_without_instances_have_gland_dice_and_no_objects():
    mixed = gland_set(2)
    plain = image("plain", border_codes(two_glands(), 2))
    evaluation = evaluate(knows_all, replace(mixed, images=[*mixed.images, plain]), GLANDS)
    scores = image_scores(evaluation)
    assert scores["gland_dice"].tolist() == [1, 1, 1]
    assert np.isnan(scores["object_f1"]).tolist() == [False, False, True]


def test_the_worst_come_first_and_those_without_a_score_never():
    evaluation = Evaluation(
        CLASSES[:2],
        ("good", "bad", "unknown", "middling"),
        ("s",) * 4,
        np.array([[[9, 1], [1, 9]], [[5, 5], [5, 5]], np.zeros((2, 2)), [[8, 2], [2, 8]]]),
    )
    assert worst_images(evaluation, 2) == [1, 3]
    assert worst_images(evaluation, 9) == [1, 3, 0]


@pytest.mark.parametrize(
    ("labelled", "glands", "words"),
    [
        (LabelSet(CLASSES, [], "an empty set"), None, "an empty set: no image"),
        (
            LabelSet(CLASSES, [image("a", np.full((4, 4), IGNORED, np.uint8))], "the set"),
            None,
            "the set: no image has a labelled pixel",
        ),
        (
            LabelSet(CLASSES, [image("a.png", np.full((4, 4), 9, np.uint8))], "x"),
            None,
            "a.png: code 9 has no class",
        ),
        (gland_set(1), GlandReading(mpp=1.0, border=3), "but there are 3 classes"),
    ],
)
def test_what_cannot_be_measured_is_said(labelled, glands, words):
    with pytest.raises(ModelError, match=words):
        evaluate(sees_nothing, labelled, glands)


def test_a_mask_of_another_size_and_a_head_of_other_classes_are_named():
    codes = np.zeros((4, 5), np.uint8)
    wrong = LabelledImage(
        "m.png", "s", lambda: LabelledPixels(np.zeros((4, 6, 3), np.uint8), codes)
    )
    with pytest.raises(ModelError, match=r"m\.png: the image is \(4, 6\) and its mask \(4, 5\)"):
        evaluate(sees_nothing, LabelSet(CLASSES, [wrong], "x"))
    with pytest.raises(ModelError, match=r"0\.png: probabilities are \(3, 40, 60\), not \(2"):
        evaluate(sees_nothing, replace(gland_set(1), classes=CLASSES[:2]))


def test_the_files_say_what_was_counted(tmp_path):
    evaluation = evaluate(misses_the_top, gland_set(), GLANDS)
    write_evaluation(tmp_path / "out", evaluation, summarise(evaluation, QUICK), QUICK)

    def table(name: str) -> list[list[str]]:
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        return [line.split("\t") for line in text.splitlines()]

    counts = evaluation.confusions.sum(axis=0)
    header, *rows = table("confusion.tsv")
    assert header[1:] == [row[0] for row in rows] == [c.name for c in CLASSES]
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], int), counts)

    header, *rows = table("per_class.tsv")
    dice = image_scores(replace(evaluation, confusions=counts[None]))["dice"][0]
    at = header.index("dice")
    assert [float(row[at]) for row in rows] == pytest.approx(list(dice), abs=1e-4)
    for row in rows:
        assert float(row[at + 1]) <= float(row[at]) <= float(row[at + 2])

    header, *rows = table("per_image.tsv")
    assert [row[0] for row in rows] == ["0.png", "1.png", "2.png", "3.png"]
    assert {"gland_dice", "object_f1", "object_hausdorff_um", "dice Gland"} <= set(header)
    for picture in PICTURES:
        with Image.open(tmp_path / "out" / picture) as opened:
            assert opened.width >= 600


def test_the_summary_is_plain_json_with_null_for_what_is_undefined():
    evaluation = evaluate(sees_nothing, gland_set(), GLANDS)
    content = summary_json(evaluation, summarise(evaluation, QUICK), QUICK)
    again = json.loads(json.dumps(content, allow_nan=False))
    assert again["classes"]["Gland"]["precision"] == {"value": None, "low": None, "high": None}
    assert again["classes"]["Gland"]["recall"]["value"] == 0
    assert again["intervals"]["resamples"] == 200
    assert again["images"] == 4


def test_the_worst_images_are_drawn_with_both_outlines(tmp_path):
    labelled = gland_set()
    evaluation = evaluate(misses_the_top, labelled, GLANDS)
    paths = draw_worst(tmp_path, evaluation, misses_the_top, labelled, 2, GLANDS)
    worst = evaluation.names[worst_images(evaluation, 1)[0]]
    assert [p.name[:9] for p in paths] == ["worst_01_", "worst_02_"]
    assert worst in paths[0].name
    with Image.open(paths[0]) as opened:
        colours = {tuple(c) for c in np.array(opened.convert("RGB")).reshape(-1, 3).tolist()}
    assert {TRUTH, FOUND} <= colours
