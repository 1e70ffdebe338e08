"""Labels of several sources made one, checked, and split."""

import pickle
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.card import HeadClass
from model.classes import PALETTE, STANDARD_COLORS, color_for, trouble_with_name
from model.errors import ModelError
from model.labels import (
    IGNORED,
    LabelCounts,
    LabelledImage,
    LabelledPixels,
    LabelSet,
    check_labels,
    merge,
)
from model.split import split, split_by

TUMOR, STROMA = HeadClass("Tumor", (200, 0, 0)), HeadClass("Stroma", (150, 200, 150))
FAT = HeadClass("Fat", (1, 2, 3))


def pixels_of(codes) -> LabelledPixels:
    plane = np.array(codes, np.uint8)
    return LabelledPixels(np.zeros((*plane.shape, 3), np.uint8), plane)


def image(name: str, codes, group: str | None = None) -> LabelledImage:
    return LabelledImage(name, group or name, partial(pixels_of, codes))


def labels(*images: LabelledImage, classes=(TUMOR, STROMA), description="slides") -> LabelSet:
    return LabelSet(tuple(classes), images, description)


def codes_of(found: LabelledImage) -> list[list[int]]:
    return found.read().codes.tolist()


# --- merging ---------------------------------------------------------------------------------


def test_classes_are_united_by_name_and_codes_follow():
    first = labels(image("a", [[0, 1, IGNORED]]))
    second = labels(image("b", [[0, 1, 2]]), classes=(STROMA, FAT, TUMOR), description="tiles")
    merged = merge([first, second])
    assert merged.classes == (TUMOR, STROMA, FAT)
    assert [codes_of(i) for i in merged.images] == [[[0, 1, IGNORED]], [[1, 2, 0]]]
    assert merged.description == "slides; tiles"


@given(st.lists(st.permutations(["A", "B", "C", "D"]), min_size=2, max_size=4))
def test_every_pixel_keeps_its_class_through_a_merge(orders):
    colors = {"A": (1, 0, 0), "B": (2, 0, 0), "C": (3, 0, 0), "D": (4, 0, 0)}
    sets = [
        labels(image(f"{n}", [[0, 1, 2, 3, 255]]), classes=[HeadClass(c, colors[c]) for c in order])
        for n, order in enumerate(orders)
    ]
    merged = merge(sets)
    names = [c.name for c in merged.classes]
    for order, found in zip(orders, merged.images, strict=True):
        *known, last = codes_of(found)[0]
        assert ([names[code] for code in known], last) == (order, 255)


def test_nothing_is_read_before_it_is_needed():
    def never() -> LabelledPixels:
        raise AssertionError("read too early")

    unread = labels(LabelledImage("a", "a", never))
    assert len(merge([unread, labels(image("b", [[0]]))]).images) == 2


def test_images_of_the_same_name_get_their_sources_and_keep_their_groups():
    sets = [labels(image("a", [[0]], "slide 1"), description="x") for _ in range(2)]
    merged = merge([*sets, labels(image("b", [[0]]), description="y")])
    names = [i.name for i in merged.images]
    assert len(set(names)) == 3 and names[2] == "b" and "x" in names[0]
    assert [i.group for i in merged.images] == ["slide 1", "slide 1", "b"]


def test_a_class_of_two_colours_is_refused_with_both_and_the_remedy():
    other = labels(image("b", [[0]]), classes=(HeadClass("Tumor", (9, 9, 9)),), description="mine")
    said = r'"Tumor" is \(200, 0, 0\) in slides but \(9, 9, 9\) in mine; give it the same colour'
    with pytest.raises(ModelError, match=said):
        merge([labels(image("a", [[0]])), other])


def test_a_background_is_never_shown_so_its_colour_is_free():
    white = HeadClass("Background", (255, 255, 255), detections=False)
    grey = HeadClass("Background", (128, 128, 128))
    for first, second in [(white, grey), (grey, white)]:
        sets = [labels(image(c.color[0] * "x", [[0]]), classes=(c,)) for c in (first, second)]
        (found,) = merge(sets).classes
        assert not found.detections


def test_merging_one_is_that_one_and_none_is_refused():
    one = labels(image("a", [[0]]))
    assert merge([one]) is one
    with pytest.raises(ModelError, match="name a source"):
        merge([])


def test_a_merge_hides_no_code_that_stands_for_no_class():
    merged = merge([labels(image("a", [[7]])), labels(image("b", [[0]]))])
    with pytest.raises(ModelError, match="a: code 7"):
        merged.images[0].read()


def test_merged_images_can_be_sent_to_another_process():
    merged = merge([labels(image("a", [[0]])), labels(image("b", [[1]]), classes=(FAT, TUMOR))])
    assert codes_of(pickle.loads(pickle.dumps(merged)).images[1]) == [[0]]


# --- checking --------------------------------------------------------------------------------


def test_labelled_pixels_are_counted_per_class_and_image():
    counts = check_labels(labels(image("a", [[0, 0, IGNORED]]), image("b", [[1, 0, IGNORED]])))
    assert counts.per_class == {"Tumor": 3, "Stroma": 1}
    assert counts.per_image["b"] == {"Tumor": 1, "Stroma": 1}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (labels(), "slides: there is no labelled image"),
        (labels(image("a", [[0]]), classes=(TUMOR,)), "only one, Tumor"),
        (labels(image("a", [[0]]), classes=()), "there is none"),
        (labels(image("a", [[0]])), "no pixel has the class Stroma"),
        (labels(image("a", [[0, 1, 2]])), "a: code 2"),
        (labels(image("a", [[0]]), image("a", [[1]])), "two images are named a"),
        (labels(image("a", [[0, 1]]), classes=(TUMOR, TUMOR)), "the same name"),
        (
            labels(image("a", [[0]]), classes=[HeadClass(f"c{n}", (0, 0, n)) for n in range(255)]),
            "255 classes, 254 are possible",
        ),
    ],
)
def test_labels_that_cannot_train_a_head_are_refused_in_one_sentence(bad, said):
    with pytest.raises(ModelError, match=said) as error:
        check_labels(bad)
    assert "\n" not in str(error.value)


def test_254_classes_are_possible():
    classes = [HeadClass(f"c{n}", (0, 0, n)) for n in range(254)]
    counts = check_labels(labels(image("a", [list(range(254))]), classes=classes))
    assert set(counts.per_class.values()) == {1}


def test_too_many_classes_together_are_refused_when_merged():
    sets = [
        labels(classes=[HeadClass(f"{n}{i}", (0, 0, 0)) for i in range(200)], description=n)
        for n in "ab"
    ]
    with pytest.raises(ModelError, match="a and b: 400 classes"):
        merge(sets)


@pytest.mark.parametrize("which", ["codes", "instances"])
def test_a_mask_of_another_size_is_refused(which):
    right, wrong = np.zeros((4, 6), np.uint8), np.zeros((6, 4), np.uint8)
    planes = {"codes": right, "instances": right} | {which: wrong}
    odd = LabelledPixels(np.zeros((4, 6, 3), np.uint8), planes["codes"], planes["instances"])
    with pytest.raises(ModelError, match="they must be of one size"):
        check_labels(labels(LabelledImage("a", "a", lambda: odd)))


@pytest.mark.parametrize("name", ["T", "Tumor", "Tumor: Positive", "Ü 1", "a.b", "A: B: C", "1+"])
def test_names_that_qupath_takes_are_taken(name):
    assert trouble_with_name(name) is None
    named = labels(image("a", [[0, 1]]), classes=(HeadClass(name, (1, 1, 1)), FAT))
    assert check_labels(named).per_class[name] == 1


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "A:B",
        "A :B",
        "A: ",
        ":",
        " A",
        "A ",
        "A:  B",
        "A\nB",
        "Ignore*",
        "Region*: x",
        "null",
    ],
)
def test_names_that_qupath_would_change_are_refused(name):
    named = labels(image("a", [[0, 1]]), classes=(HeadClass(name, (1, 1, 1)), FAT))
    with pytest.raises(ModelError, match="a class cannot be named"):
        check_labels(named)


def test_a_class_without_a_colour_gets_qupaths_or_one_that_is_free():
    assert color_for("Tumor", PALETTE) == STANDARD_COLORS["Tumor"]
    taken: list[tuple[int, int, int]] = []
    for number in range(len(PALETTE)):
        taken.append(color_for(f"class {number}", taken))
    assert len(set(taken)) == len(PALETTE) and not set(taken) & set(STANDARD_COLORS.values())
    assert color_for("one more", taken) in PALETTE


# --- splitting -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=20),
    st.floats(0.05, 0.6),
    st.integers(0, 100),
)
def test_a_split_covers_all_never_parts_a_group_and_repeats(groups, share, seed):
    images = [image(f"i{n}", [[0]], f"g{group}") for n, group in enumerate(groups)]
    train, validation = split(images, share, seed)
    assert train and validation
    assert sorted(i.name for i in train + validation) == sorted(i.name for i in images)
    assert (split_by(train, validation) == "group") == (len(set(groups)) > 1)
    assert split(images, share, seed) == (train, validation)


def test_about_the_share_is_held_out_and_the_seed_chooses_which():
    images = [image(f"i{n}", [[0]]) for n in range(100)]
    chosen = {tuple(i.name for i in split(images, 0.2, seed)[1]) for seed in range(5)}
    assert len(chosen) == 5 and {len(names) for names in chosen} == {20}


def test_a_group_larger_than_asked_for_is_still_held_out():
    images = [image(f"i{n}", [[0]], f"g{n % 2}") for n in range(10)]
    train, validation = split(images, 0.1, 0)
    assert (len(train), len(validation)) == (5, 5)


@pytest.mark.parametrize("seed", range(8))
def test_no_class_loses_its_last_image_to_validation(seed):
    images = [image(f"i{n}", [[0, 1 if n == 3 else 0]]) for n in range(6)]
    counts = check_labels(labels(*images))
    train, validation = split(images, 0.5, seed, counts)
    assert "i3" in [i.name for i in train] and len(validation) == 3


@pytest.mark.parametrize("seed", range(8))
def test_images_without_a_label_validate_nothing(seed):
    images = [image("blank", [[IGNORED]]), *(image(f"i{n}", [[0, 1]]) for n in range(3))]
    counts = check_labels(labels(*images))
    _, validation = split(images, 0.3, seed, counts)
    assert [i.name for i in validation] != [] and "blank" not in [i.name for i in validation]


def test_where_each_group_alone_has_a_class_images_are_held_out():
    images = [image(f"{g}{n}", [[g]], f"slide {g}") for g in range(2) for n in range(3)]
    counts = check_labels(labels(*images))
    train, validation = split(images, 0.3, 0, counts)
    assert split_by(train, validation) == "image"
    assert {i.group for i in train} == {"slide 0", "slide 1"}


def test_where_each_image_alone_has_a_class_it_is_said_which():
    images = [image("a", [[0]]), image("b", [[1]])]
    counts = LabelCounts(
        {"Tumor": 1, "Stroma": 1},
        {"a": {"Tumor": 1, "Stroma": 0}, "b": {"Tumor": 0, "Stroma": 1}},
    )
    with pytest.raises(ModelError, match=r"Tumor \(in a\), Stroma \(in b\); draw another"):
        split(images, 0.2, 0, counts)


def test_one_image_cannot_be_split():
    with pytest.raises(ModelError, match="draw at least two annotations"):
        split([image("a", [[0]])], 0.2, 0)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ModelError, match="between 0 and 1"):
        split([image("a", [[0]]), image("b", [[0]])], share, 0)
