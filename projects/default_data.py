"""What the shipped model learns from: drawn slides and open tiles."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from model.train import IGNORED, LabelledTile
from qupath_bridge.demo.drawing import DemoSlide, draw_slide

TILE_M = 256
SIDE_PX = 768
FIRST_SEED = 1_000_000  # far from the seeds that people give the demo
FIRST_HELD_OUT_SEED = 2_000_000
# NCT-CRC-HE-100K labels whole tiles; ADI and MUC have no counterpart among the tissue classes.
NCT_TISSUE = {"BACK": 0, "TUM": 1, "STR": 2, "MUS": 2, "LYM": 3, "DEB": 4, "NORM": 5}
NCT_NOT_GLAND = ("BACK", "DEB", "LYM", "MUS", "STR")


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


def nct_tiles(folder: Path) -> list[LabelledTile]:
    """Return weakly labelled tiles: a tile's class on all of it but white holes and the rim."""
    tiles = []
    for kind, code in sorted(NCT_TISSUE.items()):
        for image in read_images(folder / kind, 0.5):
            padded = _at_least(image, TILE_M)
            codes = np.full(padded.shape[:2], IGNORED, np.uint8)
            codes[: image.shape[0], : image.shape[1]] = code
            if kind != "BACK":
                codes[padded.min(axis=2) > 215] = IGNORED
            tiles.append(LabelledTile(padded, codes))
    return tiles


def gland_codes(weak: LabelledTile) -> np.ndarray:
    """Return what a weakly labelled tile says of glands, uint8 [H, W]: none here, or nothing."""
    gland_free = np.isin(weak.codes, [NCT_TISSUE[kind] for kind in NCT_NOT_GLAND])
    return np.where(gland_free, 0, IGNORED).astype(np.uint8)


def demo_tiles(slides: list[DemoSlide], per_slide: int) -> list[tuple[LabelledTile, np.ndarray]]:
    """Return crops of drawn slides with their exact tissue, and beside it their glands' codes."""
    rng = np.random.default_rng(11)
    tiles = []
    for slide in slides:
        for _ in range(per_slide):
            y, x = (int(rng.integers(n - TILE_M + 1)) // 4 * 4 for n in slide.pixels.shape[:2])
            box = np.s_[y : y + TILE_M, x : x + TILE_M]
            tile = LabelledTile(slide.pixels[box], slide.tissue[box], (x, y))
            tiles.append((tile, slide.glands[box]))
    return tiles


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
