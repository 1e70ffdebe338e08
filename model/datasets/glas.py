"""GlaS: 165 images of colon with every gland outlined, 0.62005 um per pixel; for research only.

Source: Sirinukunwattana et al., Gland segmentation in colon histology images: The GlaS challenge
contest, Medical Image Analysis 2017.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from model.card import HeadClass
from model.datasets.pictures import (
    pictures_in,
    read_codes,
    read_rgb,
    same_size,
    scaled_codes,
    scaled_rgb,
)
from model.errors import ModelError
from model.instances import border_codes
from model.labels import LabelledImage, LabelledPixels, LabelSet

MPP = 0.62005
SPLITS = ("train", "testA", "testB")
BACKGROUND = HeadClass("Background", (255, 255, 255), detections=False)
GLAND = HeadClass("Gland", (0, 120, 200))
BORDER = HeadClass("Gland border", (0, 60, 100), detections=False)
FILE_NAME = re.compile(r"(train|testA|testB)_\d+$")
GRADES = "Grade.csv"


def read_glas(
    folder: Path, mpp: float, split: str | None = None, border_um: float = 0.0
) -> LabelSet:
    """Return the images of a folder as published, or sorted into train, testA and testB.

    Codes: 0 background, 1 gland, and with `border_um` > 0 also 2, the rim of each gland of that
    width. `split` takes only one of SPLITS. Images of one patient are one group where Grade.csv
    tells (patients occur on both sides of the published split).

    Raises:
        ModelError: there is no such image, one has no mask, or the rim is narrower than a pixel.
    """
    if split is not None and split not in SPLITS:
        raise ModelError(f"GlaS has no part {split!r}; it has: {', '.join(SPLITS)}")
    if border_um and not border_um >= mpp:
        raise ModelError(
            f"a border of {border_um:g} um is less than a pixel of {mpp:g} um; widen it"
        )
    patients = _patients(folder)
    images = [
        LabelledImage(path.stem, patients.get(path.stem, path.stem), partial(_read, *job))
        for path in _images(folder, split)
        for job in [(path, _mask_of(path), mpp, border_um / mpp)]
    ]
    if not images:
        raise ModelError(
            f"{folder} has no image of GlaS named as {split or 'train'}_1; get it anew"
        )
    classes = (BACKGROUND, GLAND, BORDER) if border_um else (BACKGROUND, GLAND)
    part = f" {split}" if split else ""
    return LabelSet(classes, images, f"GlaS{part} in {folder.name} ({len(images)} images)")


def _images(folder: Path, split: str | None) -> Iterator[Path]:
    """Yield the images in a folder and the folders in it, by number."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder; name that of GlaS")
    places = [folder, *sorted(p for p in folder.iterdir() if p.is_dir())]
    found = [path for place in places for path in pictures_in(place)]
    for path in sorted(found, key=lambda p: (len(p.stem), p.stem)):
        match = FILE_NAME.match(path.stem)
        if match and split in (None, match[1]):
            yield path


def _mask_of(path: Path) -> Path:
    for suffix in (".bmp", ".png"):
        mask = path.with_name(f"{path.stem}_anno{suffix}")
        if mask.is_file():
            return mask
    raise ModelError(f"{path} has no mask {path.stem}_anno beside it; get the pair anew")


def _read(path: Path, mask: Path, mpp: float, border_m: float) -> LabelledPixels:
    pixels, raw = read_rgb(path), read_codes(mask)
    same_size(pixels, raw, mask)
    instances = scaled_codes(raw, MPP / mpp)
    codes = border_codes(instances, border_m) if border_m else (instances > 0).astype(np.uint8)
    return LabelledPixels(scaled_rgb(pixels, MPP / mpp), codes, instances)


def _patients(folder: Path) -> dict[str, str]:
    """Return each image's patient, as far as Grade.csv is there."""
    path = next((p for p in (folder / GRADES, folder.parent / GRADES) if p.is_file()), None)
    if path is None:
        return {}
    try:
        # The published one ends its lines as old Macs do.
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
        head = [title.strip().lower() for title in rows[0]]
        name, patient = head.index("name"), head.index("patient id")
        return {row[name].strip(): f"patient {row[patient].strip()}" for row in rows[1:] if row}
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise ModelError(
            f"{path} does not tell the patients ({error}); get it anew or remove it"
        ) from error
