"""What an image's result depends on, so that a result can be known to be up to date."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import shapely

from model import ModelCard
from qupath_bridge.geometry import Region
from qupath_bridge.regions import RegionsFound
from qupath_bridge.settings import RunSettings
from qupath_bridge.slide import Slide
from qupath_bridge.store import Made

ENGINE = 7
"""Raised whenever the same model and settings find other objects than before.

2: in bands. 3: bare glass is not computed. 4: island by island. 5: pixels are resampled from boxes
that are not rounded to float32. 6: levels of JPEG tiles whose downsample is a broken number are
read in their very place, and pixels within 2 % of a whole part of the model's are taken as that.
7: entropy in steps of 1/65535.
"""

TISSUE = "tissue"


def made_from(
    card: ModelCard,
    heads: Sequence[str],
    settings: RunSettings,
    slide: Slide,
    found: RegionsFound,
) -> Made:
    """Return what a result of these inputs is made from; it reads no pixels.

    The tissue follows from the slide: it need not have been looked for.
    """
    pixel_size = [round(um, 9) for um in slide.mpp]
    return Made(
        model=card.fingerprint,
        heads=tuple(heads),
        settings=settings.deciding() | {"mpp": pixel_size},
        slide=_slide(slide.path),
        regions=TISSUE if found.wants_tissue else _regions(found.regions),
        engine=ENGINE,
    )


def _slide(path: Path) -> str:
    """Return what tells one version of a file from another: its size and time of change."""
    state = path.stat()
    return f"{state.st_size} bytes, changed {state.st_mtime_ns} ns"


def _regions(regions: Iterable[Region]) -> str:
    digest = hashlib.sha256()
    for region in sorted(regions, key=lambda r: r.id):
        name = f"{region.id}\t{region.name}\t{region.class_name}\n"
        digest.update(name.encode())
        digest.update(shapely.to_wkb(shapely.normalize(region.outline_l0)))
    return digest.hexdigest()
