"""How well detections agree with the truth of a drawn slide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import shapely
from rasterio.features import rasterize
from rasterio.transform import Affine
from shapely.geometry import Polygon

from qupath_bridge.detections import Detection
from qupath_bridge.errors import SettingsError
from qupath_bridge.geometry import Region


def dice_per_class(
    truth_codes: np.ndarray,
    detections_l0: Sequence[Detection],
    classes: Sequence[str],
    regions_l0: Sequence[Region],
) -> dict[str, float]:
    """Return the Dice coefficient of each class inside the regions, 0..1.

    `truth_codes` is uint8 [H, W] in level-0 pixels, codes into `classes`; class 0 is what no
    detection covers. A class that neither truth nor detections have is left out.

    Raises:
        SettingsError: a detection is of a class that the truth does not know.
    """
    _check_classes(detections_l0, classes)
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)  # [truth, found]
    for part in _parts(regions_l0):
        counts += _confusion(truth_codes, detections_l0, classes, part)
    both = counts.diagonal()
    either = counts.sum(axis=0) + counts.sum(axis=1)
    return {
        name: float(2 * both[code] / either[code])
        for code, name in enumerate(classes)
        if either[code] > 0
    }


def mean_dice(dice: Mapping[str, float], background: str = "Background") -> float:
    """Return the mean over the classes but the background; NaN where there is none."""
    values = [value for name, value in dice.items() if name != background]
    return float(np.mean(values)) if values else float("nan")


def _check_classes(detections: Sequence[Detection], classes: Sequence[str]) -> None:
    unknown = {d.class_name for d in detections} - set(classes)
    if unknown:
        raise SettingsError(
            f"the truth has no class {', '.join(sorted(unknown))}, only {', '.join(classes)};"
            " compare one head's detections with that head's truth"
        )


def _parts(regions: Sequence[Region]) -> list[Polygon]:
    """Return the area of all regions in connected parts: where they overlap it counts once."""
    union = shapely.union_all([region.outline_l0 for region in regions])
    return [part for part in shapely.get_parts(union) if isinstance(part, Polygon)]


def _confusion(
    truth: np.ndarray, detections: Sequence[Detection], classes: Sequence[str], part: Polygon
) -> np.ndarray:
    """Return pixel counts by class in truth and in what was found, int64 [K, K]."""
    height, width = truth.shape
    x0, y0 = max(0, int(part.bounds[0])), max(0, int(part.bounds[1]))
    x1 = min(width, int(np.ceil(part.bounds[2])))
    y1 = min(height, int(np.ceil(part.bounds[3])))
    if x0 >= x1 or y0 >= y1:
        return np.zeros((len(classes), len(classes)), dtype=np.int64)
    window = (y1 - y0, x1 - x0)
    at = Affine.translation(x0, y0)
    inside = rasterize([(part, 1)], out_shape=window, transform=at, dtype="uint8").astype(bool)
    code_of = {name: code for code, name in enumerate(classes)}
    near = [d for d in detections if d.outline_l0.intersects(part)]
    shapes = [(d.outline_l0, code_of[d.class_name]) for d in near]
    found = np.zeros(window, dtype=np.uint8)
    if shapes:
        rasterize(shapes, out=found, transform=at)
    pairs = truth[y0:y1, x0:x1][inside].astype(np.int64) * len(classes) + found[inside]
    counts = np.bincount(pairs, minlength=len(classes) ** 2)
    return counts.reshape(len(classes), len(classes))
