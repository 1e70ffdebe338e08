"""Detections: what they are, whose they are, and their GeoJSON.

Every detection of ours carries an id from which its origin can be read for ever, whatever QuPath
keeps or drops of its other properties: a version-8 UUID (RFC 9562, free for such uses) of

    prefix "psdf" 32 bits . head 16 bits . 8 . region 12 bits . variant . region 12, contents 50

QuPath keeps an object's id through save, load, export and import, and gives a copy a new one. So
an object with the prefix is ours to replace, and one without it is never touched.

Annotations that suggest what to annotate next have ids of the same kind, but the prefix "psds"
and a digest of their shape in all the other bits: no run takes them for its own, and one whose
shape was changed can be told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

import numpy as np
from shapely.geometry import Polygon

ID_PREFIX = "70736466"  # "psdf"
IDS_AT_ONCE = 2**12
SUGGESTION_PREFIX = "70736473"  # "psds"


@dataclass(frozen=True)
class Detection:
    """One connected object of one class; outline in level-0 pixels.

    mean_probability: of its class, 0..1. mean_entropy: of all classes' probabilities, from 0, sure,
    to 1, all classes alike; None for objects of versions that did not measure it.
    """

    id: str
    head: str
    region_id: str
    class_name: str
    color: tuple[int, int, int]
    outline_l0: Polygon
    area_um2: float
    mean_probability: float
    mean_entropy: float | None = None


def detection_id(head: str, region_id: str, contents: bytes) -> str:
    """Return the id of the detection of `head` in a region with these contents (class and WKB)."""
    return str(UUID(int=_origin(head, region_id) | _bits(contents, 50)))


@lru_cache(maxsize=256)
def _origin(head: str, region_id: str) -> int:
    """Return all bits of an id but those of the contents."""
    region = _bits(region_id.encode(), 24)
    return (
        int(ID_PREFIX, 16) << 96
        | _bits(head.encode(), 16) << 80
        | 8 << 76
        | (region >> 12) << 64
        | 0b10 << 62
        | (region & 0xFFF) << 50
    )


class TakenIds:
    """The ids given out, in 8 bytes each: sorted runs of their lowest 64 bits.

    Two ids of one head alike differ there.
    """

    def __init__(self) -> None:
        self._new: set[int] = set()
        self._runs: list[np.ndarray] = []  # each at least twice as long as the next

    def __contains__(self, object_id: str) -> bool:
        key = _low_bits(object_id)
        return key in self._new or any(_holds(run, key) for run in self._runs)

    def add(self, object_id: str) -> None:
        """Take an id."""
        self._new.add(_low_bits(object_id))
        if len(self._new) < IDS_AT_ONCE:
            return
        run = np.sort(np.array(list(self._new), np.uint64))
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]))
        self._runs.append(run)
        self._new = set()


def _holds(run: np.ndarray, key: int) -> bool:
    place = int(np.searchsorted(run, np.uint64(key)))
    return place < len(run) and int(run[place]) == key


def _low_bits(object_id: str) -> int:
    return int(object_id[19:23] + object_id[24:], 16)


def is_ours(object_id: str) -> bool:
    """Return whether an object was made by us."""
    return object_id.lower().startswith(ID_PREFIX + "-") and object_id[14:15] == "8"


def suggestion_id(contents: bytes) -> str:
    """Return the id of the suggestion with these contents (its corners)."""
    digest = int.from_bytes(hashlib.blake2b(contents, digest_size=12).digest(), "big")
    value = int(SUGGESTION_PREFIX, 16) << 96 | digest
    value = value & ~(0xF << 76) | 8 << 76
    return str(UUID(int=value & ~(0b11 << 62) | 0b10 << 62))


def is_suggestion(object_id: str) -> bool:
    """Return whether an object was made by us as a suggestion."""
    return object_id.lower().startswith(SUGGESTION_PREFIX + "-") and object_id[14:15] == "8"


def head_key(head: str) -> str:
    """Return the part of an id that stands for a head."""
    return f"{_bits(head.encode(), 16):04x}"


def region_key(region_id: str) -> str:
    """Return the part of an id that stands for a region."""
    return f"{_bits(region_id.encode(), 24):06x}"


def head_key_of(object_id: str) -> str:
    """Return which head made an object of ours, as `head_key` writes it."""
    return object_id[9:13].lower()


def region_key_of(object_id: str) -> str:
    """Return which region an object of ours was made in, as `region_key` writes it."""
    value = UUID(object_id).int
    return f"{(value >> 64 & 0xFFF) << 12 | (value >> 50 & 0xFFF):06x}"


def replaced_by(
    heads: Collection[str], region_ids: Collection[str], present_region_ids: Collection[str]
) -> Callable[[str], bool]:
    """Return a function that tells of an object's id whether a run replaces that object.

    It does if the object is ours, of one of the run's heads, and its region is one of those done
    anew or no longer present in the image.
    """
    head_keys = {head_key(head) for head in heads}
    anew = {region_key(region_id) for region_id in region_ids}
    kept = {region_key(region_id) for region_id in present_region_ids} - anew

    def is_replaced(object_id: str) -> bool:
        return (
            is_ours(object_id)
            and head_key_of(object_id) in head_keys
            and region_key_of(object_id) not in kept
        )

    return is_replaced


def _bits(data: bytes, count: int) -> int:
    digest = hashlib.blake2b(data, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - count)
