"""Glands as objects: from class probabilities to instances, and back to codes for training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from model.errors import ModelError

BACKGROUND, GLAND, BORDER = 0, 1, 2
EIGHT = np.ones((3, 3), bool)  # a gland's pixels hang together across corners too


@dataclass(frozen=True)
class GlandReading:
    """How glands are read from a head's probabilities; all sizes are our choice.

    mpp: um per pixel. gland, border: channels of a gland's inside and rim; border None where a
    head has no such class, and then touching glands stay one. min_object_um2: smaller objects
    are dropped (so are slivers of glands at an image's edge, which GlaS counts: 20 of the 666
    glands of testA). min_core_um2: smaller pieces of inside do not make a gland of their own.
    """

    mpp: float
    gland: int = GLAND
    border: int | None = BORDER
    min_object_um2: float = 400.0
    min_core_um2: float = 100.0

    @property
    def channels(self) -> tuple[int, ...]:
        """Return the channels that together are gland."""
        return (self.gland,) if self.border is None else (self.gland, self.border)


def border_codes(instances: np.ndarray, width_px: float) -> np.ndarray:
    """Return codes uint8 [H, W]: background 0, gland 1, gland border 2.

    instances: int [H, W], an id per gland, 0 for none. A gland's border are its pixels at most
    `width_px` from a pixel that is not of this gland; the image's edge is no border, since there
    the gland goes on.

    Raises:
        ModelError: the width is below one pixel, which would leave no border.
    """
    if not width_px >= 1:
        raise ModelError(f"a gland border of {width_px} px is none; give 1 px or more")
    codes = np.where(instances > 0, GLAND, BACKGROUND).astype(np.uint8)
    _, labels = np.unique(instances * (instances > 0), return_inverse=True)
    labels = labels.reshape(instances.shape) + bool(codes.all())  # no gaps; 0 is background
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        # Pixels farther out than the width cannot make anything border.
        window = _grown(box, int(np.ceil(width_px)) + 1)
        own = labels[window] == number
        codes[window][own & (_depth(own) <= width_px)] = BORDER
    return codes


def gland_mask(probabilities: np.ndarray, reading: GlandReading) -> np.ndarray:
    """Return bool [H, W], where gland and border together are likelier than not.

    probabilities: float [K, H, W], adding to 1 over K.
    """
    return probabilities[list(reading.channels)].sum(axis=0) > 0.5


def gland_instances(probabilities: np.ndarray, reading: GlandReading) -> np.ndarray:
    """Return glands as int32 [H, W], ids from 1 without gaps, 0 for none.

    probabilities: float [K, H, W], adding to 1 over K. Insides are the markers of a watershed
    that grows them at equal pace over the borders, to where two meet; a gland that is border
    only is one gland. Then holes are filled and small objects dropped.
    """
    mask = gland_mask(probabilities, reading)
    inside = mask
    if reading.border is not None:
        inside = mask & (probabilities[reading.gland] > probabilities[reading.border])
    return _instances(mask, inside, reading)


def glands_of_codes(codes: np.ndarray, reading: GlandReading) -> np.ndarray:
    """Return glands as `gland_instances` does, of the winning classes alone, uint8 [H, W]."""
    return _instances(np.isin(codes, reading.channels), codes == reading.gland, reading)


def known_glands(probabilities: np.ndarray, known: np.ndarray, reading: GlandReading) -> np.ndarray:
    """Return glands as `gland_instances` does, only where `known`, bool [H, W].

    The rest is background before the watershed, so that what is predicted there joins no two
    glands, and after it, since holes were filled.
    """
    return gland_instances(probabilities * known, reading) * known


def _instances(mask: np.ndarray, inside: np.ndarray, reading: GlandReading) -> np.ndarray:
    """Return glands, int32 [H, W], of what is gland or border and of what is inside."""
    cores = _cores(mask, inside, reading)
    if cores.max(initial=0) <= 1:  # no two to part
        grown = mask.astype(np.int32)
    else:
        grown = watershed(_distance_to(cores > 0), cores, mask=mask, connectivity=2)
    filled = _filled(grown.astype(np.int32, copy=False))
    return _without_small(filled, reading.min_object_um2 / reading.mpp**2)


def _cores(mask: np.ndarray, inside: np.ndarray, reading: GlandReading) -> np.ndarray:
    """Return one marker per gland, int32 [H, W]."""
    # Across a corner two insides would meet through a border of one pixel: four neighbours.
    cores, _ = ndimage.label(inside)
    cores = _without_small(cores.astype(np.int32), reading.min_core_um2 / reading.mpp**2)
    pieces, count = ndimage.label(mask, EIGHT)
    has_core = np.zeros(count + 1, bool)
    has_core[np.unique(pieces[cores > 0])] = True
    lonely = mask & ~has_core[pieces]
    return np.where(lonely, pieces + cores.max(initial=0), cores).astype(np.int32)


def _filled(instances: np.ndarray) -> np.ndarray:
    """Return instances with the background that one of them encloses given to it."""
    filled = instances.copy()
    for number, box in enumerate(ndimage.find_objects(instances), start=1):
        if box is None:
            continue
        full = ndimage.binary_fill_holes(instances[box] == number)
        filled[box][full & (instances[box] == 0)] = number
    return filled


def _without_small(instances: np.ndarray, min_px: float) -> np.ndarray:
    """Return instances without those below `min_px` pixels, numbered anew."""
    sizes = np.bincount(instances.ravel())
    kept = sizes >= min_px
    kept[0] = False
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)[instances]


def _depth(own: np.ndarray) -> np.ndarray:
    """Return each pixel's distance to the nearest one outside; infinity where all is inside."""
    return np.full(own.shape, np.inf) if own.all() else ndimage.distance_transform_edt(own)


def _distance_to(mask: np.ndarray) -> np.ndarray:
    """Return each pixel's distance to the nearest one of a mask; zeros where it is empty."""
    return ndimage.distance_transform_edt(~mask) if mask.any() else np.zeros(mask.shape)


def _grown(box: tuple[slice, slice], margin: int) -> tuple[slice, slice]:
    """Return a box with a margin around; slices may end beyond the array."""
    rows, cols = (slice(max(0, side.start - margin), side.stop + margin) for side in box)
    return rows, cols
