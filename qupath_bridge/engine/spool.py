"""An image's objects on disk from when they are traced until all are known.

One file of records (see `records`) for each region and head; none stays open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from qupath_bridge.detections import Detection
from qupath_bridge.engine.records import read_record, record
from qupath_bridge.errors import ProjectError
from qupath_bridge.featurecollection import UNREADABLE

SUFFIX = ".objects"
OBJECTS_AT_ONCE = 1000


class ObjectSpool:
    """Objects in a folder of their own, ordered by region, head and when they were appended.

    It begins empty: what a killed run left in the folder is taken away. Any number may be
    appended and then iterated over, as often as need be; a few are in memory at a time.

    Raises:
        ProjectError: the folder cannot be written or read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts: Counter[tuple[int, int]] = Counter()
        with _told(folder, "written"):
            folder.mkdir(parents=True, exist_ok=True)
            self._clear()

    def append(self, region_index: int, head_index: int, detections: Iterable[Detection]) -> None:
        """Add what a head found in a region, after what it found there before."""
        key = region_index, head_index
        path = self._path(key)
        coming = iter(detections)
        while some := list(islice(coming, OBJECTS_AT_ONCE)):
            with _told(path, "written"), path.open("ab") as file:
                file.write(record(some))
            self._counts[key] += len(some)

    def __iter__(self) -> Iterator[Detection]:
        for key in sorted(self._counts):
            yield from self._read(key)

    def __len__(self) -> int:
        return self._counts.total()

    def remove(self) -> None:
        """Take away the files, and the folder if it holds nothing else."""
        self._counts.clear()
        with _told(self._folder, "written"):
            self._clear()
        with suppress(OSError):
            self._folder.rmdir()

    def _path(self, key: tuple[int, int]) -> Path:
        return self._folder / f"{key[0]}-{key[1]}{SUFFIX}"

    def _read(self, key: tuple[int, int]) -> Iterator[Detection]:
        path = self._path(key)
        found = 0
        with _told(path, "read"), path.open("rb") as file:
            while some := read_record(file):
                yield from some
                found += len(some)
            if found != self._counts[key]:
                raise ValueError(f"{found} objects instead of {self._counts[key]}")

    def _clear(self) -> None:
        for path in self._folder.glob(f"*{SUFFIX}"):
            path.unlink()


@contextmanager
def _told(path: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise ProjectError(
            f"{path} cannot be {verb} ({error}); make room on its disk, or make its"
            " folder writable, then run again"
        ) from error
