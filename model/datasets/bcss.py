"""BCSS: 151 regions of breast cancer, labelled by code, 0.25 um per pixel.

Source: Amgad et al., Structured crowdsourcing enables convolutional segmentation of histology
images, Bioinformatics 2019. The five groups and the institutes held out are the customary ones.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from model.card import HeadClass
from model.classes import STANDARD_COLORS
from model.datasets.pictures import (
    pictures_in,
    read_codes,
    read_rgb,
    same_size,
    scaled_rgb,
    voted_codes,
)
from model.errors import ModelError
from model.labels import IGNORED, LabelledImage, LabelledPixels, LabelSet

CLASSES = tuple(HeadClass(name, color) for name, color in STANDARD_COLORS.items())
OUTSIDE_ROI = 0
GROUPS = {"Tumor": (1, 19, 20), "Stroma": (2,), "Immune cells": (3, 10, 11), "Necrosis": (4,)}
HIGHEST_CODE = 21
"""Every other code up to here is of the group Other, exclude (7) and undetermined (15) among them.

So the customary tables have it; only what lies outside of the region weighs nothing.
"""

TEST_INSTITUTES = ("OL", "LL", "E2", "EW", "GM", "S3")
IMAGE_FOLDERS = ("rgbs_colorNormalized", "rgbs", "images")
FILE_NAME = re.compile(r"TCGA-(?P<institute>[A-Z0-9]{2})-.*_MPP-(?P<mpp>\d+(\.\d+)?)$", re.I)


def read_bcss(folder: Path, mpp: float) -> LabelSet:
    """Return the regions in a folder as published, brought to `mpp` um per pixel.

    The folder, or the only one in it, has `masks` beside one of IMAGE_FOLDERS; files pair by name.

    Raises:
        ModelError: the folders, a mask, or a file's name are not as published.
    """
    root = _root(folder)
    at = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), None)
    if at is None:
        raise ModelError(f"{root} has none of the folders {', '.join(IMAGE_FOLDERS)}; get it anew")
    masks = {path.stem: path for path in pictures_in(root / "masks")}
    images = [_labelled(path, masks, mpp) for path in pictures_in(at)]
    if not images:
        raise ModelError(f"{at} has no image; get it anew")
    return LabelSet(CLASSES, images, f"BCSS in {folder.name} ({len(images)} regions)")


def bcss_split(labels: LabelSet) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Return the images of the institutes to train on, and of the customary test institutes."""
    test = [image for image in labels.images if image.group in TEST_INSTITUTES]
    return [image for image in labels.images if image.group not in TEST_INSTITUTES], test


def bcss_part(folder: Path, mpp: float, held_out: bool) -> LabelSet:
    """Return the regions of the institutes to train on, or with `held_out` of those to test on.

    Raises:
        ModelError: see `read_bcss`, or no region is of such an institute.
    """
    labels = read_bcss(folder, mpp)
    images = bcss_split(labels)[held_out]
    if not images:
        which = "none of a test institute" if held_out else "those of test institutes only"
        raise ModelError(f"{folder} has, of its {len(labels.images)} regions, {which}; get it anew")
    part = "test" if held_out else "training"
    return LabelSet(labels.classes, images, f"BCSS, {len(images)} regions of {part} institutes")


def _root(folder: Path) -> Path:
    """Return the folder that has the masks: this one or the only such one in it."""
    if (folder / "masks").is_dir():
        return folder
    inside = sorted(path.parent for path in folder.glob("*/masks") if path.is_dir())
    if len(inside) != 1:
        raise ModelError(
            f"{folder} is not BCSS as published: no folder masks beside one of"
            f" {', '.join(IMAGE_FOLDERS)}"
        )
    return inside[0]


def _labelled(path: Path, masks: dict[str, Path], mpp: float) -> LabelledImage:
    said = FILE_NAME.match(path.stem)
    if said is None or float(said["mpp"]) <= 0:
        raise ModelError(
            f"{path.name} is not named as BCSS names its files (TCGA-A1-..._MPP-0.2500.png);"
            " give it its name back"
        )
    mask = masks.get(path.stem)
    if mask is None:
        raise ModelError(f"{path} has no mask of its name; get the mask, or remove the image")
    read = partial(_read, path, mask, float(said["mpp"]) / mpp)
    return LabelledImage(path.stem, said["institute"].upper(), read)


def _read(path: Path, mask: Path, factor: float) -> LabelledPixels:
    pixels, raw = read_rgb(path), read_codes(mask)
    same_size(pixels, raw, mask)
    unknown = np.unique(raw[(raw < 0) | (raw > HIGHEST_CODE)])
    if unknown.size:
        raise ModelError(f"{mask} has the code {unknown[0]}, which BCSS does not know; get it anew")
    codes = _group_of_code()[raw]
    return LabelledPixels(scaled_rgb(pixels, factor), voted_codes(codes, factor))


def _group_of_code() -> np.ndarray:
    """Return the class of each published code, uint8 [HIGHEST_CODE + 1]."""
    names = [c.name for c in CLASSES]
    table = np.full(HIGHEST_CODE + 1, names.index("Other"), np.uint8)
    for name, codes in GROUPS.items():
        table[list(codes)] = names.index(name)
    table[OUTSIDE_ROI] = IGNORED
    return table
