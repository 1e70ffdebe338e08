"""Whether an image file is still the one that was opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qupath_bridge.errors import SlideError

REMEDY = "put it back and run again; what was finished is kept"


@dataclass(frozen=True)
class FileMark:
    """What tells an image file from a later one of its name: bytes and time of the last change."""

    path: Path
    size: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> FileMark:
        """Return the mark of a file as it is now. Raises: OSError."""
        stat = path.stat()
        return cls(path, stat.st_size, stat.st_mtime_ns)

    def check(self) -> None:
        """Do nothing if the file is as it was.

        Raises:
            SlideError: it was removed, changed, or cannot be reached any more.
        """
        try:
            now = FileMark.of(self.path)
        except FileNotFoundError as error:
            raise SlideError(
                f"{self.path} was removed while it was being read; {REMEDY}"
            ) from error
        except OSError as error:
            raise SlideError(
                f"{self.path} could not be reached any more while it was being read"
                f" ({error.strerror or error}); {REMEDY}"
            ) from error
        if now != self:
            how = f" from {self.size} to {now.size} bytes" if now.size != self.size else ""
            raise SlideError(f"{self.path} was changed{how} while it was being read; {REMEDY}")
