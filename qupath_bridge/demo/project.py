"""The demo's QuPath project: a drawn slide, its truth, and two annotations to segment.

<folder>/
    demo.qpproj
    data/1/server.json
    classifiers/classes.json
    slides/demo.tif
    truth/classes.json           also says that the folder is a demo of ours
    truth/tissue.png, glands.png
    pathsegdiff/1/regions.geojson
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import numpy as np
from PIL import Image

from qupath_bridge.demo.drawing import GLAND_CLASSES, MPP, TISSUE_CLASSES, DemoSlide, draw_slide
from qupath_bridge.demo.noise import stream
from qupath_bridge.demo.placing import place_regions
from qupath_bridge.demo.qpproj import (
    REGION_CLASS,
    ImageEntry,
    classes_json,
    project_json,
    regions_json,
    server_json,
)
from qupath_bridge.demo.tiff import TILE_PX, level_sizes, write_pyramid
from qupath_bridge.disk import check_writable, replacing, write_json
from qupath_bridge.errors import ProjectError
from qupath_bridge.project.base import ProjectClass

SIDE_PX = 4096
MADE_BY = "qupath-pathsegdiff demo"
NEED_BYTES = 100 * 2**20
OURS = ("data", "classifiers", "slides", "truth", "pathsegdiff")
COLORS = {
    "Background": (255, 255, 255),
    "Tumor": (200, 0, 0),
    "Stroma": (150, 200, 150),
    "Immune cells": (160, 90, 160),
    "Necrosis": (50, 50, 50),
    "Other": (255, 200, 0),
    "Gland": (0, 130, 200),
}


@dataclass(frozen=True)
class DemoProject:
    """Where the parts of a demo project are."""

    folder: Path
    entry_id: str = "1"

    @property
    def project_file(self) -> Path:
        return self.folder / "demo.qpproj"

    @property
    def slide(self) -> Path:
        return self.folder / "slides" / "demo.tif"

    @property
    def regions(self) -> Path:
        return self.folder / "pathsegdiff" / self.entry_id / "regions.geojson"

    @property
    def truth_legend(self) -> Path:
        return self.folder / "truth" / "classes.json"

    def truth(self, head: str) -> Path:
        """Return the truth of "tissue" or "glands": class codes in a PNG with a palette."""
        return self.folder / "truth" / f"{head}.png"


def make_demo_project(folder: Path, seed: int, *, side_px: int = SIDE_PX) -> DemoProject:
    """Draw a slide and write a QuPath project about it; an earlier demo there is replaced.

    Raises:
        ProjectError: the folder holds something else than a demo, or cannot be written.
        SettingsError: the seed is negative, or the slide too small.
    """
    demo = DemoProject(folder.resolve())
    _check_replaceable(demo)
    check_writable(demo.folder, NEED_BYTES)
    slide = draw_slide(seed, side_px, side_px)
    _clear(demo)
    _write_legend(demo, seed)  # first, so that a demo cut short is known as one
    _write_truth(demo, slide)
    write_pyramid(demo.slide, slide.pixels, MPP)
    write_json(demo.regions, regions_json(place_regions(seed, slide.tissue)))
    _write_project(demo, seed, side_px)
    return demo


def read_truth(path: Path) -> np.ndarray:
    """Return class codes, uint8 [H, W], from a truth file of a demo project."""
    with Image.open(path) as image:
        return np.array(image)


def _check_replaceable(demo: DemoProject) -> None:
    folder = demo.folder
    if folder.exists() and not folder.is_dir():
        raise ProjectError(f"{folder} is a file; give the demo a folder of its own")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not _is_demo(demo):
        raise ProjectError(
            f"{folder} is not empty and not a demo project; give the demo an empty or new folder"
        )
    if demo.project_file.exists() and not _has_only_our_image(demo):
        raise ProjectError(
            f"{demo.project_file} has been given other images; it is left as it is."
            " Give the demo another folder"
        )


def _is_demo(demo: DemoProject) -> bool:
    try:
        legend = json.loads(demo.truth_legend.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(legend, dict) and legend.get("made_by") == MADE_BY


def _has_only_our_image(demo: DemoProject) -> bool:
    try:
        images = json.loads(demo.project_file.read_text(encoding="utf-8"))["images"]
        return len(images) == 1 and images[0]["entryID"] == 1
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False


def _clear(demo: DemoProject) -> None:
    """Take away what an earlier demo wrote, its mark last; files of any other name stay."""
    try:
        demo.project_file.unlink(missing_ok=True)
        for name in ("slides/demo.tif", "classifiers/classes.json"):
            (demo.folder / name).unlink(missing_ok=True)
        for name in ("pathsegdiff", f"data/{demo.entry_id}", "truth"):
            if (demo.folder / name).exists():
                shutil.rmtree(demo.folder / name)
        for name in OURS:
            (demo.folder / name).mkdir(parents=True, exist_ok=True)
        demo.regions.parent.mkdir()
        (demo.folder / "data" / demo.entry_id).mkdir()
    except OSError as error:
        raise ProjectError(
            f"cannot replace the demo in {demo.folder} ({error.strerror or error});"
            " close it in QuPath, or give another folder"
        ) from error


def _write_legend(demo: DemoProject, seed: int) -> None:
    legend = {
        "made_by": MADE_BY,
        "seed": seed,
        "mpp": MPP,
        "tissue": _legend_of(TISSUE_CLASSES),
        "glands": _legend_of(GLAND_CLASSES),
    }
    write_json(demo.truth_legend, legend)


def _legend_of(names: Sequence[str]) -> list[dict[str, object]]:
    return [
        {"code": code, "name": name, "color": list(COLORS[name])} for code, name in enumerate(names)
    ]


def _write_truth(demo: DemoProject, slide: DemoSlide) -> None:
    parts = (("tissue", slide.tissue, TISSUE_CLASSES), ("glands", slide.glands, GLAND_CLASSES))
    for head, codes, names in parts:
        image = Image.fromarray(codes).convert("L")
        image.putpalette([channel for name in names for channel in COLORS[name]])
        with replacing(demo.truth(head)) as beside:
            image.save(beside, format="PNG", compress_level=6)


def _write_project(demo: DemoProject, seed: int, side_px: int) -> None:
    """Write what makes the folder a QuPath project, the project file last."""
    image = ImageEntry(
        name=demo.slide.name,
        path=demo.slide,
        level_sizes=level_sizes(side_px, side_px),
        mpp=MPP,
        tile_px=TILE_PX,
        anonymous_name=str(UUID(bytes=stream(seed, "name").bytes(16), version=4)),
    )
    names = dict.fromkeys((*TISSUE_CLASSES[1:], *GLAND_CLASSES[1:]))
    classes = [*(ProjectClass(name, COLORS[name]) for name in names), REGION_CLASS]
    write_json(demo.folder / "classifiers" / "classes.json", classes_json(classes))
    write_json(demo.folder / "data" / demo.entry_id / "server.json", server_json(image))
    made_ms = int(time.time() * 1000)
    write_json(demo.project_file, project_json(demo.project_file, image, made_ms))
