"""Labelled images: what every source of training data gives, whatever its format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from model.card import HeadClass
from model.classes import trouble_with_name
from model.errors import ModelError

IGNORED = 255
MOST_CLASSES = 254


@dataclass(frozen=True)
class LabelledPixels:
    """An image at the model's resolution and its truth.

    pixels: uint8 [H, W, 3]. codes: uint8 [H, W], the index of each pixel's class, or IGNORED.
    instances: int32 [H, W], the id of each object (gland), 0 for none; None where not known.
    """

    pixels: np.ndarray
    codes: np.ndarray
    instances: np.ndarray | None = None


@dataclass(frozen=True)
class LabelledImage:
    """One image that can be read when it is needed.

    name: unique in its set. group: what must stay on one side of a split (a slide, a patient, an
    institute). origin_m: (x, y) of its corner in the noise field, model pixels.
    """

    name: str
    group: str
    read: Callable[[], LabelledPixels]
    origin_m: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class LabelSet:
    """Images of one source, their classes in the order of the codes, and words for the card."""

    classes: tuple[HeadClass, ...]
    images: Sequence[LabelledImage]
    description: str


@dataclass(frozen=True)
class LabelCounts:
    """How many pixels are labelled: per class, and per image and class. Keys are names."""

    per_class: Mapping[str, int]
    per_image: Mapping[str, Mapping[str, int]]


def merge(sets: Sequence[LabelSet]) -> LabelSet:
    """Return the images of several sources with one list of classes, by name.

    Codes are brought to it when an image is read. Names that occur twice get their source's in
    front. Groups stay as they are: where two sources name one slide, it stays on one side of a
    split.

    Raises:
        ModelError: there is no source, or a class has two colours.
    """
    if not sets:
        raise ModelError("there is nothing to learn from; name a source of labels")
    if len(sets) == 1:
        return sets[0]
    classes = _united_classes(sets)
    place = {c.name: code for code, c in enumerate(classes)}
    counted = Counter(image.name for labels in sets for image in labels.images)
    images = []
    for number, labels in enumerate(sets, start=1):
        codes = tuple(place[c.name] for c in labels.classes)
        for image in labels.images:
            name = image.name
            if counted[name] > 1:
                name = f"{number}. {labels.description}: {name}"
            images.append(replace(image, name=name, read=partial(_read_recoded, image, codes)))
    return LabelSet(classes, images, "; ".join(labels.description for labels in sets))


def in_classes_of(labels: LabelSet, classes: Sequence[HeadClass]) -> tuple[LabelSet, list[str]]:
    """Return the labels in a head's classes, by name, and the names of classes it does not know.

    Pixels of those are IGNORED.

    Raises:
        ModelError: the head knows none of the classes.
    """
    place = {c.name: code for code, c in enumerate(classes)}
    unknown = [c.name for c in labels.classes if c.name not in place]
    if len(unknown) == len(labels.classes):
        raise ModelError(
            f"{labels.description} is labelled as {', '.join(unknown)}; the head knows"
            f" {', '.join(place)}: choose another head"
        )
    codes = tuple(place.get(c.name, IGNORED) for c in labels.classes)
    images = [replace(image, read=partial(_read_recoded, image, codes)) for image in labels.images]
    return LabelSet(tuple(classes), images, labels.description), unknown


def check_labels(labels: LabelSet) -> LabelCounts:
    """Return how many pixels are labelled; reads every image once.

    Raises:
        ModelError: a head cannot be trained on this: no image, less than two classes, too many,
            a class without a pixel or of a name that QuPath refuses, or a mask that does not fit.
    """
    _check_classes(labels)
    names = [image.name for image in labels.images]
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise ModelError(f"{labels.description}: two images are named {doubled[0]}; rename one")
    per_image = {}
    for image in labels.images:
        counts = _count(image, len(labels.classes))
        per_image[image.name] = {
            c.name: int(n) for c, n in zip(labels.classes, counts, strict=True)
        }
    per_class = {c.name: sum(seen[c.name] for seen in per_image.values()) for c in labels.classes}
    empty = [name for name, count in per_class.items() if count == 0]
    if empty:
        raise ModelError(
            f"{labels.description}: no pixel has the class {', '.join(empty)};"
            " label some of it, or leave the class out"
        )
    return LabelCounts(per_class, per_image)


def _united_classes(sets: Sequence[LabelSet]) -> tuple[HeadClass, ...]:
    """Return all classes in order of first appearance.

    What is background to one source is to all; its colour is never shown, so the first will do.
    """
    united: dict[str, HeadClass] = {}
    origin: dict[str, str] = {}
    for labels in sets:
        for found in labels.classes:
            known = united.setdefault(found.name, found)
            first = origin.setdefault(found.name, labels.description)
            detections = known.detections and found.detections
            if detections and known.color != found.color:
                raise ModelError(
                    f'class "{found.name}" is {_shown(known.color)} in {first} but'
                    f" {_shown(found.color)} in {labels.description}; give it the same colour in"
                    " both (in QuPath: double-click the class in the Annotations tab)"
                )
            united[found.name] = replace(known, detections=detections)
    _refuse_too_many(len(united), " and ".join(labels.description for labels in sets))
    return tuple(united.values())


def _refuse_too_many(count: int, what: str) -> None:
    if count > MOST_CLASSES:
        raise ModelError(f"{what}: {count} classes, {MOST_CLASSES} are possible; unite some")


def _shown(color: tuple[int, int, int]) -> str:
    return f"({', '.join(map(str, color))})"


def _read_recoded(image: LabelledImage, codes: tuple[int, ...]) -> LabelledPixels:
    """Return an image whose code i is `codes[i]` now."""
    read = image.read()
    _refuse_unknown(read.codes, len(codes), image.name)
    table = np.full(256, IGNORED, np.uint8)
    table[: len(codes)] = codes
    return replace(read, codes=table[read.codes])


def _check_classes(labels: LabelSet) -> None:
    what = labels.description
    if not labels.images:
        raise ModelError(f"{what}: there is no labelled image; see where the source keeps them")
    if len(labels.classes) < 2:
        only = f"only one, {labels.classes[0].name}" if labels.classes else "none"
        raise ModelError(f"{what}: two classes at least are needed, there is {only}; label another")
    _refuse_too_many(len(labels.classes), what)
    names = [c.name for c in labels.classes]
    if len(set(names)) < len(names):
        raise ModelError(f"{what}: two classes have the same name; rename one")
    for name in names:
        trouble = trouble_with_name(name)
        if trouble:
            raise ModelError(
                f"{what}: a class cannot be named {_quoted(name)}: {trouble}; rename the class"
            )


def _quoted(name: str) -> str:
    """Return a name on one line, whatever is in it."""
    return f'"{name}"' if name.isprintable() else repr(name)


def _count(image: LabelledImage, classes: int) -> np.ndarray:
    """Return pixels per class, int [classes].

    Raises:
        ModelError: the arrays are not as `LabelledPixels` says, or a code stands for no class.
    """
    read = image.read()
    size, mask = read.pixels.shape[:2], read.codes.shape
    if size != mask or (read.instances is not None and read.instances.shape != size):
        raise ModelError(
            f"{image.name}: the mask is {mask[1]} x {mask[0]} pixels, the image"
            f" {size[1]} x {size[0]}; they must be of one size"
        )
    if read.codes.dtype != np.uint8 or read.pixels.dtype != np.uint8 or read.pixels.ndim != 3:
        raise ModelError(f"{image.name}: the image must be 8-bit RGB and its codes 8-bit")
    _refuse_unknown(read.codes, classes, image.name)
    return np.bincount(read.codes.ravel(), minlength=256)[:classes]


def _refuse_unknown(codes: np.ndarray, classes: int, name: str) -> None:
    unknown = np.unique(codes[(codes >= classes) & (codes != IGNORED)])
    if unknown.size:
        raise ModelError(
            f"{name}: code {unknown[0]} of its mask stands for no class; mend the mask"
        )
