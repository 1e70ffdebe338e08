"""Finished bands of an image on disk, so that a run that was ended goes on where it stood.

<folder>/
    made.json       what the bands were made from
    band-00012      one finished band, packed; there whole or not at all
    objects/        what was traced of them so far, made anew by every run

A file that the system lost or cut has no valid checksum: its band is then computed again. What
cannot be read for want of a right, or cannot be taken away, ends the run instead of being mixed
with what is new.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from qupath_bridge.disk import write_text
from qupath_bridge.engine.band_file import packed, unpacked
from qupath_bridge.engine.fused import FusedBand
from qupath_bridge.errors import ProjectError

FORMAT = 2
Say = Callable[[str], None]


class Checkpoint:
    """The folder of one image's finished bands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, made: Mapping[str, Any], restart: bool, say: Say) -> Mapping[str, Any]:
        """Make ready for an image made as `made` says, and return what is in force.

        That is `made` itself, or what an earlier run kept, where it agrees in all but `batch`,
        the number of tiles computed at once. Bands of anything else are thrown away.

        Raises:
            ProjectError: the system refused to read, write, or take away.
        """
        kept = {} if restart else self._kept()
        if _fits(kept, made):
            return kept
        if not restart and any(self.folder.glob("band-*")):
            say(f"what an earlier run had begun {_why_not(kept)}; it is begun anew")
        self.remove()
        try:
            self.folder.mkdir(parents=True)  # what could not be taken away would pass for new
        except OSError as error:
            raise ProjectError(
                f"cannot make {self.folder} anew ({error.strerror or error}); take away what is"
                " there, or make its folder writable, then run again"
            ) from error
        write_text(self.folder / "made.json", json.dumps({"format": FORMAT, **made}))
        return made

    def is_of(self, made: Mapping[str, Any]) -> bool:
        """Return whether bands are there, as far as can be read, that were made from this."""
        try:
            return self._kept().get("made") == _plain(made)
        except ProjectError:
            return False

    def has(self, band: int) -> bool:
        """Return whether there is a file of a band; it may still prove to be damaged."""
        return self._path(band).exists()

    def read(self, band: int) -> FusedBand | None:
        """Return a finished band; None if it is not there, or not whole."""
        try:
            return unpacked(self._path(band).read_bytes())
        except (OSError, ValueError):
            return None

    def write(self, band: int, fused: FusedBand) -> None:
        """Keep a finished band.

        It is not waited for the disk itself: what a power cut takes is computed again.

        Raises:
            ProjectError: the system refused to write; the bands kept so far stay.
        """
        self.write_packed(band, packed(fused))

    def write_packed(self, band: int, content: bytes) -> None:
        """Keep a finished band that is packed already.

        Raises:
            ProjectError: the system refused to write; the bands kept so far stay.
        """
        path = self._path(band)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            beside.write_bytes(content)
            beside.replace(path)
        except OSError as error:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise self._refused(path, error) from error

    def drop(self, band: int) -> None:
        """Forget a band: the next run computes it again."""
        with suppress(OSError):
            self._path(band).unlink(missing_ok=True)

    def remove(self) -> None:
        """Take the folder away: its image is done, or is begun anew."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, band: int) -> Path:
        return self.folder / f"band-{band:05d}"

    def _refused(self, path: Path, error: OSError) -> ProjectError:
        if not self.folder.exists():
            return ProjectError(
                f"{self.folder} was taken away while it was written into; run again: what was"
                " finished of this image went with it"
            )
        return ProjectError(
            f"cannot write {path} ({error.strerror or error}); make room on its disk, or make its"
            " folder writable, then run again: what is finished is kept"
        )

    def _kept(self) -> dict[str, Any]:
        """Return what the bands in the folder were made from; {} where nobody can tell.

        Raises:
            ProjectError: the system refused to read.
        """
        path = self.folder / "made.json"
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
            return {}
        except OSError as error:
            raise ProjectError(
                f"cannot read {path} ({error.strerror or error}); allow this user to read it, or"
                " begin the image anew (--restart)"
            ) from error
        return kept if isinstance(kept, dict) else {}


def _fits(kept: Mapping[str, Any], made: Mapping[str, Any]) -> bool:
    batch = kept.get("batch")
    is_count = isinstance(batch, int) and batch >= 1
    return is_count and {**kept, "batch": 0} == _plain({"format": FORMAT, **made, "batch": 0})


def _why_not(kept: Mapping[str, Any]) -> str:
    if not kept:
        return "is damaged"
    of_ours = kept.get("format") == FORMAT
    return "was made from something else" if of_ours else "is of another version of this program"


def _plain(content: Mapping[str, Any]) -> Any:
    """Return content as it comes back out of JSON."""
    return json.loads(json.dumps(content))
