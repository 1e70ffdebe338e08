"""Which labelled images are trained on, and which are held out to validate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.errors import ModelError
from model.labels import LabelCounts, LabelledImage

Unit = list[LabelledImage]


def split(
    images: Sequence[LabelledImage],
    validation_share: float,
    seed: int,
    counts: LabelCounts | None = None,
) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Return images to train on and images to validate with, both not empty, in their order.

    Whole groups are held out, about `validation_share` of the images (at least one group); the
    same images and seed give the same split. With `counts`, no class loses its last labelled
    image to validation, and images without a label validate nothing. Where no group can be spared
    (there is one only, or each alone has some class), single images are held out instead.

    Raises:
        ModelError: nothing can be held out.
    """
    if not 0 < validation_share < 1:
        raise ModelError(f"the validation share must be between 0 and 1; got {validation_share:g}")
    if len(images) < 2:
        raise ModelError(
            "there is one labelled image or annotation only, and none is left to validate with;"
            " draw at least two annotations, some way apart"
        )
    groups: dict[str, Unit] = {}
    for image in images:
        groups.setdefault(image.group, []).append(image)
    for units in (list(groups.values()), [[image] for image in images]):
        held_out = _held_out(units, validation_share, seed, counts)
        if held_out:
            train = [image for image in images if image.name not in held_out]
            return train, [image for image in images if image.name in held_out]
    raise ModelError(_why_none(images, counts))


def split_by(train: Sequence[LabelledImage], validation: Sequence[LabelledImage]) -> str:
    """Return "group" where no group is on both sides of a split, else "image"."""
    shared = {image.group for image in train} & {image.group for image in validation}
    return "image" if shared else "group"


def _held_out(units: list[Unit], share: float, seed: int, counts: LabelCounts | None) -> set[str]:
    """Return the names of the images in the units that are held out; none if none can be."""
    labelled = np.array([_labelled_images(unit, counts) for unit in units])
    sizes = np.array([len(unit) for unit in units])
    wanted = share * sizes.sum()
    left = labelled.sum(axis=0)
    order = np.random.default_rng(seed).permutation(len(units))
    chosen: list[int] = []
    held = 0

    def spared(index: int) -> bool:
        # Training keeps one image of every class that there is, and of course one at all.
        return bool(labelled[index].any() and ((left > labelled[index]) | (left == 0)).all())

    for index in order:
        closer = abs(held + sizes[index] - wanted) < abs(held - wanted)
        if closer and spared(index):
            chosen.append(index)
            held += sizes[index]
            left = left - labelled[index]
    if not chosen:  # every unit is larger than what was asked for: the smallest is least too much
        chosen = sorted(filter(spared, order), key=lambda index: sizes[index])[:1]
    return {image.name for index in chosen for image in units[index]}


def _labelled_images(unit: Unit, counts: LabelCounts | None) -> list[int]:
    """Return in how many of the unit's images each class occurs; of one class if not known."""
    if counts is None:
        return [len(unit)]
    seen = [counts.per_image[image.name] for image in unit]
    return [sum(image[name] > 0 for image in seen) for name in counts.per_class]


def _why_none(images: Sequence[LabelledImage], counts: LabelCounts | None) -> str:
    once = []
    for name in counts.per_class if counts else ():
        where = [i.name for i in images if counts and counts.per_image[i.name][name] > 0]
        once += [f"{name} (in {where[0]})"] if len(where) == 1 else []
    return (
        "no image can be held out to validate with, since each alone has some class:"
        f" {', '.join(once)}; draw another annotation of these, some way apart from the first"
    )
