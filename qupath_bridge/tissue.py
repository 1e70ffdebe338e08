"""Where the tissue is: a mask at low resolution, from colour alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

MAX_MASK_PIXELS = 12_000_000
"""28 x 28 mm at 8 um; larger slides are read coarser."""

PART_ROWS = 256
SMOOTHING, SMOOTHING_REACH = 0.7, 3
"""Pixels: of a Gaussian, and how far it reaches (SciPy cuts it off at 4 standard deviations)."""

LEAST_STAIN = 0.035
MOST_STAIN = 0.10
"""Optical density, in the green that haematoxylin and eosin absorb, where tissue may begin.

Otsu's threshold between them: on an image of glass alone it would part noise, and on one of tissue
alone pale from dark; the limits keep the first empty and the second whole.
"""

FAINT = 0.5
"""Pixels above this part of the threshold belong to the tissue they touch: fat, oedema, edges."""

LEAST_COLOUR = 0.12
"""Of tissue's density in green, at least this part is missing in red or blue; dust, shadows, cover
slip edges and black ink are grey and absorb all three alike."""

INK_DENSITY = 0.3
INK_RED_OVER_GREEN = 1.3
"""Blue and green ink let through green rather than red; stained tissue does the opposite, and
haematoxylin at its bluest absorbs both alike."""


@dataclass(frozen=True)
class TissueSettings:
    """How tissue is found.

    `mpp` is the mask's um per pixel. Pieces and holes smaller than `min_piece_um2` and
    `min_hole_um2` are left out and filled; gaps up to `closing_um` are bridged, and `margin_um` is
    added all around so that no edge is cut.
    """

    mpp: float = 8.0
    min_piece_um2: float = 10_000.0
    min_hole_um2: float = 100_000.0
    closing_um: float = 40.0
    margin_um: float = 25.0


def tissue_mask(
    rgb: np.ndarray, mpp: float = TissueSettings.mpp, settings: TissueSettings | None = None
) -> np.ndarray:
    """Return where stained tissue is, bool [H, W], in uint8 RGB [H, W, 3] of `mpp` um a pixel."""
    chosen = settings or TissueSettings()
    return _grow(_tidy(_stained(rgb), mpp, chosen), chosen.margin_um / mpp)


def _stained(rgb: np.ndarray) -> np.ndarray:
    stain = stain_density(rgb)
    threshold = float(np.clip(otsu_threshold(stain), LEAST_STAIN, MOST_STAIN))
    sure, perhaps = stain > threshold, stain > threshold * FAINT
    del stain  # the largest of all, and what follows needs much
    return np.asarray(ndimage.binary_propagation(sure, mask=perhaps), bool)


def stain_density(rgb: np.ndarray) -> np.ndarray:
    """Return the optical density in green of what is coloured as stain is, float32 [H, W].

    It is 0 where the colour is grey or an ink's.
    """
    glass = glass_colour(rgb)
    stain = np.empty(rgb.shape[:2], np.float32)
    for rows, part, own in row_parts(rgb, SMOOTHING_REACH):
        stain[rows] = _stain_of_part(part, glass)[own]
    return stain


def row_parts(pixels: np.ndarray, reach: int = 0) -> Iterator[tuple[slice, np.ndarray, slice]]:
    """Yield which rows of an array [H, ...] come next, these and `reach` more at each end, and
    where in that part they are: what is done part by part takes a part's memory.
    """
    for top in range(0, len(pixels), PART_ROWS):
        end, above = min(top + PART_ROWS, len(pixels)), min(top, reach)
        part = pixels[top - above : end + reach]
        yield slice(top, end), part, slice(above, above + end - top)


def _stain_of_part(rgb: np.ndarray, glass: np.ndarray) -> np.ndarray:
    density = [
        ndimage.gaussian_filter(_density(rgb[..., c], glass[c]), SMOOTHING, mode="nearest")
        for c in range(3)
    ]
    red, green, blue = density
    coloured = green - np.minimum(red, blue) > LEAST_COLOUR * green
    ink = (red > INK_DENSITY) & (red > INK_RED_OVER_GREEN * green)
    return np.where(coloured & ~ink, green, 0).clip(0).astype(np.float32)


def glass_colour(rgb: np.ndarray) -> np.ndarray:
    """Return the colour of bare glass, float [3]: what is bright and nearly grey, or else white."""
    sample = rgb[:: max(1, rgb.shape[0] // 1000), :: max(1, rgb.shape[1] // 1000)].reshape(-1, 3)
    spread = sample.max(1).astype(int) - sample.min(1)
    red, green, blue = sample.T.astype(int)
    pinkish = (red + blue) / 2 - green > 10  # pale tissue, not glass
    glass = sample[(sample.min(1) > 200) & (spread < 25) & ~pinkish]
    if len(glass) < 0.01 * len(sample):
        return np.array([245.0, 245.0, 245.0])
    return np.percentile(glass, 75, axis=0)


def otsu_threshold(values: np.ndarray) -> float:
    """Return the value that parts `values` best in two, by the variance between the parts."""
    counts, edges = np.histogram(values, bins=256, range=(0.0, 1.0))
    centres = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts), counts.sum()
    mass = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mass[-1] * below / total - mass) ** 2 / (below * (total - below))
    return float(edges[1 + int(np.argmax(np.nan_to_num(between, posinf=0)))])


def mask_mpp(width_um: float, height_um: float, wanted: float) -> float:
    """Return um per mask pixel: as wanted, or coarser where the mask would not fit in memory."""
    return max(wanted, math.sqrt(width_um * height_um / MAX_MASK_PIXELS))


def _density(channel: np.ndarray, glass: float) -> np.ndarray:
    table = np.log10((glass + 1) / (np.arange(256) + 1.0)).astype(np.float32)
    return table[channel]


def _tidy(mask: np.ndarray, mpp: float, settings: TissueSettings) -> np.ndarray:
    """Return the mask with gaps bridged, specks removed and small holes filled.

    Specks go first, lest bridging joins dust to tissue.
    """
    pixel_um2 = mpp * mpp
    # In an image hardly larger than a speck, a speck is what is small for the image.
    least_piece = min(settings.min_piece_um2 / pixel_um2, mask.size / 20)
    kept = _without_small(mask, least_piece / 4)
    if not kept.any():
        return kept
    pieces = _without_small(_closed(kept, settings.closing_um / mpp), least_piece)
    return _with_holes_filled(pieces, settings.min_hole_um2 / pixel_um2, least_piece)


def _closed(mask: np.ndarray, radius: float) -> np.ndarray:
    """Return the mask with gaps up to twice `radius` bridged, at the image's rim as within."""
    pads = [(min(math.ceil(radius) + 1, n),) * 2 for n in mask.shape]
    mirrored = np.pad(mask, pads, mode="symmetric")
    grown = _grow(mirrored, radius)
    closed = _grow(np.logical_not(grown, out=grown), radius)
    np.logical_not(closed, out=closed)
    rows, columns = (slice(pad, pad + n) for (pad, _), n in zip(pads, mask.shape, strict=True))
    return closed[rows, columns] | mask


def _with_holes_filled(mask: np.ndarray, least_hole: float, least_at_rim: float) -> np.ndarray:
    """Return the mask with small holes filled; what touches the image's rim may be open glass."""
    if not mask.any():
        return mask
    labels, count = _labelled(~mask)
    least = np.full(count + 1, least_hole)
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    least[rim] = least_at_rim
    keep = _sizes(labels, count) >= least
    keep[0] = False
    return ~keep[labels]


def _grow(mask: np.ndarray, radius: float) -> np.ndarray:
    """Return the mask and all within `radius` pixels of it, from middle to middle."""
    grown = np.empty_like(mask)
    for rows, part, own in row_parts(mask, int(radius)):
        grown[rows] = _grown_part(part, radius)[own]
    return grown


def _grown_part(mask: np.ndarray, radius: float) -> np.ndarray:
    grown = mask.copy()
    reach = min(int(radius), len(mask) - 1)
    for dy in range(-reach, reach + 1):
        width = 2 * int(math.sqrt(radius**2 - dy**2)) + 1
        rows = mask[max(0, -dy) : len(mask) - max(0, dy)].view(np.uint8)
        wide = ndimage.maximum_filter1d(rows, width, axis=1, mode="constant")
        grown[max(0, dy) : len(mask) - max(0, -dy)] |= wide.view(bool)
    return grown


def _without_small(mask: np.ndarray, least_pixels: float) -> np.ndarray:
    labels, count = _labelled(mask)
    keep = _sizes(labels, count) >= least_pixels
    keep[0] = False
    return keep[labels]


def _labelled(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the 4-connected pieces of a mask, numbered from 1, and how many there are.

    uint16 [H, W], or int32 where there are too many for that: it is the largest array of all.
    """
    try:
        labels = np.empty(mask.shape, np.uint16)
        return labels, ndimage.label(mask, output=labels)
    except RuntimeError:
        labels, count = ndimage.label(mask)
        return labels, count


def _sizes(labels: np.ndarray, count: int) -> np.ndarray:
    """Return how many pixels each of the labels 0 to `count` has."""
    sizes = np.zeros(count + 1, np.int64)
    for _, part, _ in row_parts(labels):  # bincount makes int64 of all it gets
        sizes += np.bincount(part.ravel(), minlength=count + 1)
    return sizes
