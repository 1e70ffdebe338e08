"""Tiles in a folder per class: weak labels, one for all of a tile."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from model.card import HeadClass
from model.classes import STANDARD_COLORS, color_for, makes_detections
from model.datasets.pictures import pictures_in, read_rgb, scaled_rgb
from model.errors import ModelError
from model.labels import IGNORED, LabelledImage, LabelledPixels, LabelSet
from model.patches import at_least

NCT_CRC = {
    "TUM": "Tumor",
    "STR": "Stroma",
    "LYM": "Immune cells",
    "DEB": "Necrosis",
    "MUC": "Mucus",
    "MUS": "Muscle",
    "NORM": "Normal mucosa",
    "ADI": "Adipose",
    "BACK": "Background",
}
"""Folder -> class of NCT-CRC-HE-100K (Kather et al., PLOS Medicine 2019, CC BY 4.0)."""

COLORS = STANDARD_COLORS | {
    "Mucus": (90, 170, 220),
    "Muscle": (220, 110, 130),
    "Normal mucosa": (60, 130, 60),
    "Adipose": (240, 220, 150),
    "Background": (255, 255, 255),
}
WHITE_BY_NATURE = ("background", "glass", "adipose", "fat")
"""Classes of which white is a part. In a tile of any other, holes say nothing of the class."""

HOLE = 215
"""Whiter than this in all channels is a hole."""


def read_class_folders(
    folder: Path, mpp: float, tile_mpp: float = 0.5, tile_m: int = 256
) -> LabelSet:
    """Return the tiles, of `tile_mpp` um per pixel, brought to `mpp`.

    A tile is of its folder's class, but for holes: see WHITE_BY_NATURE. Folders named as in
    NCT_CRC have the classes that are meant there; others give the class its name. Tiles shorter
    than `tile_m` are filled up by reflection, without a label. Each tile is a group of its own:
    nothing tells which slide it is from.

    Raises:
        ModelError: there is no folder of a class, one has no picture, or no tile has that
            pixel size.
    """
    if not 0.01 <= tile_mpp <= 10:  # also catches NaN
        raise ModelError(
            f"tiles have a pixel size of 0.01 to 10 um, not {tile_mpp:g}; pass another --tile-mpp"
        )
    tiles = {place.name: pictures_in(place) for place in _class_folders(folder)}
    empty = [name for name, paths in tiles.items() if not paths]
    if empty:
        raise ModelError(f"{folder / empty[0]} has no picture; put tiles there, or remove it")
    classes = _classes([NCT_CRC.get(name, name) for name in tiles])
    code_of = {c.name: code for code, c in enumerate(classes)}
    images = [
        LabelledImage(name, name, partial(_read, path, code_of[kind], kind, tile_mpp / mpp, tile_m))
        for place, paths in tiles.items()
        for kind in [NCT_CRC.get(place, place)]
        for path in paths
        for name in [f"{place}/{path.name}"]
    ]
    return LabelSet(classes, images, f"tiles in {folder.name} ({len(images)} tiles)")


def _class_folders(folder: Path) -> list[Path]:
    try:
        found = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise ModelError(f"{folder} cannot be read ({error.strerror}); name a folder") from error
    if not found:
        raise ModelError(f"{folder} has no folder in it; make one per class, with tiles in it")
    return found


def _classes(names: list[str]) -> tuple[HeadClass, ...]:
    """Return each class once: those known here in their order, then the others by name."""
    known = list(COLORS)
    ordered = sorted(set(names), key=lambda n: (known.index(n) if n in known else len(known), n))
    classes: list[HeadClass] = []
    for name in ordered:
        color = COLORS.get(name) or color_for(name, [c.color for c in classes])
        classes.append(HeadClass(name, color, makes_detections(name)))
    return tuple(classes)


def _read(path: Path, code: int, kind: str, factor: float, tile_m: int) -> LabelledPixels:
    tile = scaled_rgb(read_rgb(path), factor)
    height, width = tile.shape[:2]
    pixels = at_least(tile, tile_m)
    codes = np.full(pixels.shape[:2], IGNORED, np.uint8)
    codes[:height, :width] = code
    if kind.casefold() not in WHITE_BY_NATURE:
        codes[pixels.min(axis=2) > HOLE] = IGNORED
    return LabelledPixels(pixels, codes)
