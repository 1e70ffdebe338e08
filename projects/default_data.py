"""What the shipped model learns from: drawn slides and open tiles."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from model.card import HeadClass
from model.datasets.class_folders import read_class_folders
from model.labels import LabelledImage, LabelledPixels, LabelSet, in_classes_of
from qupath_bridge.demo.drawing import DemoSlide, draw_slide

TILE_M = 256
SIDE_PX = 768
FIRST_SEED = 1_000_000  # far from the seeds that people give the demo
FIRST_HELD_OUT_SEED = 2_000_000

TISSUE = (
    HeadClass("Background", (255, 255, 255), detections=False),
    HeadClass("Tumor", (200, 0, 0)),
    HeadClass("Stroma", (150, 200, 150)),
    HeadClass("Immune cells", (160, 90, 160)),
    HeadClass("Necrosis", (50, 50, 50)),
    HeadClass("Other", (255, 200, 0)),
)
GLANDS = (
    HeadClass("Background", (255, 255, 255), detections=False),
    HeadClass("Gland", (0, 120, 200)),
)
# What the tiles' own classes are among those of the heads; adipose and mucus are neither.
TISSUE_OF = {"Muscle": "Stroma", "Normal mucosa": "Other", "Adipose": None, "Mucus": None}
NOT_GLAND = ("Background", "Necrosis", "Immune cells", "Muscle", "Stroma", "Adipose")


class Mixture:
    """Patches from several groups of images, each group with its share."""

    def __init__(self, groups: list[tuple[float, list[np.ndarray]]]) -> None:
        shares = np.array([share for share, _ in groups])
        self._shares = shares / shares.sum()
        self._groups = [images for _, images in groups]

    def sample(self, rng: np.random.Generator, count: int, side_m: int) -> np.ndarray:
        """Return patches, uint8 [count, side_m, side_m, 3], turned and mirrored at random."""
        out = np.empty((count, side_m, side_m, 3), np.uint8)
        for patch in out:
            images = self._groups[rng.choice(len(self._groups), p=self._shares)]
            image = _at_least(images[rng.integers(len(images))], side_m)
            y, x = (rng.integers(n - side_m + 1) for n in image.shape[:2])
            crop = np.rot90(image[y : y + side_m, x : x + side_m], rng.integers(4))
            patch[:] = crop[:, ::-1] if rng.integers(2) else crop
        return out


def _at_least(image: np.ndarray, side_m: int) -> np.ndarray:
    short = [max(0, side_m - n) for n in image.shape[:2]]
    if not any(short):
        return image
    return np.pad(image, ((0, short[0]), (0, short[1]), (0, 0)), mode="reflect")


def read_images(folder: Path, mpp: float) -> list[np.ndarray]:
    """Return all pictures of a folder at 0.5 um/px, uint8 [H, W, 3]."""
    images = []
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png", ".tif")):
        with Image.open(path) as picture:
            size = [round(side * mpp / 0.5) for side in picture.size]
            rgb = picture.convert("RGB")
            images.append(np.asarray(rgb.resize(size, Image.Resampling.BOX)))
    return images


def crc_tiles(folder: Path) -> tuple[LabelSet, LabelSet]:
    """Return the NCT-CRC tiles to train on, and every fourth of each class, held out."""
    labels = read_class_folders(folder, 0.5)
    held_out = set()
    for kind in {image.name.split("/")[0] for image in labels.images}:
        of_kind = [i.name for i in labels.images if i.name.split("/")[0] == kind]
        held_out |= set(of_kind[3::4])
    train, test = (
        [image for image in labels.images if (image.name in held_out) is wanted]
        for wanted in (False, True)
    )
    return (
        LabelSet(labels.classes, train, f"{len(train)} tiles of NCT-CRC-HE-100K"),
        LabelSet(labels.classes, test, f"{len(test)} held-out tiles of NCT-CRC-HE-100K"),
    )


def as_tissue(tiles: LabelSet) -> LabelSet:
    """Return tiles of NCT-CRC in the classes of the tissue head; others are not labelled."""
    renamed = [
        HeadClass(TISSUE_OF.get(c.name, c.name) or f"no {c.name}", c.color) for c in tiles.classes
    ]
    return in_classes_of(LabelSet(renamed, tiles.images, tiles.description), TISSUE)[0]


def as_glands(tiles: LabelSet) -> LabelSet:
    """Return tiles of NCT-CRC with what they say of glands: none here, or nothing."""
    renamed = [
        HeadClass("Background" if c.name in NOT_GLAND else f"perhaps {c.name}", c.color)
        for c in tiles.classes
    ]
    return in_classes_of(LabelSet(renamed, tiles.images, tiles.description), GLANDS)[0]


def drawn_labels(
    slides: Sequence[DemoSlide], per_slide: int, kind: str, classes: tuple[HeadClass, ...]
) -> LabelSet:
    """Return crops of drawn slides with their exact `tissue` or `glands`."""
    rng = np.random.default_rng(11)
    images = []
    for number, slide in enumerate(slides):
        for _ in range(per_slide):
            y, x = (int(rng.integers(n - TILE_M + 1)) // 16 * 16 for n in slide.pixels.shape[:2])
            read = partial(_crop, slide, kind, y, x)
            images.append(LabelledImage(f"drawn {number} {x},{y}", f"{number}", read, (x, y)))
    return LabelSet(classes, images, f"{len(images)} crops of {len(slides)} drawn slides")


def _crop(slide: DemoSlide, kind: str, y: int, x: int) -> LabelledPixels:
    box = np.s_[y : y + TILE_M, x : x + TILE_M]
    return LabelledPixels(slide.pixels[box], getattr(slide, kind)[box])


def drawn_slides(first_seed: int, count: int, work: Path) -> list[DemoSlide]:
    """Return drawn slides of 768 px, kept in the work folder."""
    with ProcessPoolExecutor(2) as pool:
        seeds = range(first_seed, first_seed + count)
        return list(pool.map(partial(_drawn_slide, work=work), seeds))


def _drawn_slide(seed: int, work: Path) -> DemoSlide:
    path = work / f"slide-{seed}.npz"
    if not path.exists():
        slide = draw_slide(seed, SIDE_PX, SIDE_PX)
        planes = {"pixels": slide.pixels, "tissue": slide.tissue, "glands": slide.glands}
        np.savez(path.with_suffix(".part.npz"), **planes)
        path.with_suffix(".part.npz").replace(path)
    with np.load(path) as planes:
        return DemoSlide(**planes)
