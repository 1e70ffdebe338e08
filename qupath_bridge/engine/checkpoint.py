"""Finished bands of an image on disk, so that a run that was ended goes on where it stood.

<folder>/
    made.json       what the bands were made from
    band-00012      one finished band, packed; there whole or not at all
    objects/        what was traced of them so far, made anew by every run

A file that the system lost or cut has no valid checksum: its band is then computed again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qupath_bridge.disk import write_text
from qupath_bridge.engine.band_file import packed, unpacked
from qupath_bridge.engine.fused import FusedBand
from qupath_bridge.errors import ProjectError

FORMAT = 1
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
            ProjectError: the system refused to write.
        """
        kept = self._kept()
        if kept is not None and not restart and _fits(kept, made):
            return kept
        if kept is not None and not restart:
            say("what an earlier run had begun was made from something else; it is begun anew")
        self.remove()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ProjectError(
                f"cannot make {self.folder} ({error.strerror or error}); make the project's folder"
                " writable"
            ) from error
        write_text(self.folder / "made.json", json.dumps({"format": FORMAT, **made}))
        return made

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
            beside.unlink(missing_ok=True)
            raise ProjectError(
                f"cannot write {path} ({error.strerror or error}); make room on its disk, then run"
                " again: what is finished is kept"
            ) from error

    def remove(self) -> None:
        """Take the folder away: its image is done, or is begun anew."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, band: int) -> Path:
        return self.folder / f"band-{band:05d}"

    def _kept(self) -> dict[str, Any] | None:
        """Return what the bands in the folder were made from; None where there are none."""
        try:
            kept = json.loads((self.folder / "made.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {} if self.folder.exists() else None
        return kept if isinstance(kept, dict) else {}


def _fits(kept: Mapping[str, Any], made: Mapping[str, Any]) -> bool:
    plain = json.loads(json.dumps({"format": FORMAT, **made}))
    return {**kept, "batch": 0} == {**plain, "batch": 0} and isinstance(kept["batch"], int)
