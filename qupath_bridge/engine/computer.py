"""Where an image's bands are computed: in this process, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from qupath_bridge.engine.checkpoint import Checkpoint
from qupath_bridge.engine.compute import Advance
from qupath_bridge.engine.work import Found, ImageWork
from qupath_bridge.errors import ClusterError
from qupath_bridge.segment import Engine
from qupath_bridge.settings import RunSettings


@dataclass(frozen=True)
class Begun:
    """An image's work, and where its finished bands are kept.

    batch: tiles computed at once, the same for all of its bands.
    """

    name: str
    work: ImageWork
    checkpoint: Checkpoint
    batch: int


class Computer(Protocol):
    """Something that computes images' bands, and whose results are taken image by image."""

    def batch(self, engine: Engine) -> int:
        """Return how many tiles to compute at once where no earlier run has chosen."""
        ...

    def begin(self, image: Begun) -> None:
        """Take on an image."""
        ...

    def found(self, image: Begun, advance: Advance) -> Found:
        """Return what is found in an image taken on; `advance` is told of tiles done."""
        ...

    def is_hungry(self, images: int) -> bool:
        """Return whether to begin another image before the first of `images` is finished."""
        ...


class Here:
    """Computes in this process, one image after another."""

    def batch(self, engine: Engine) -> int:
        return engine.batch

    def begin(self, image: Begun) -> None:
        """Do nothing: all of it is done when the result is asked for."""

    def found(self, image: Begun, advance: Advance) -> Found:
        return image.work.done(image.checkpoint, image.batch, advance)

    def is_hungry(self, images: int) -> bool:
        return False


@contextmanager
def opened_computer(settings: RunSettings, say: Callable[[str], None]) -> Iterator[Computer]:
    """Give what the settings name as the place to compute.

    Raises:
        ClusterError: the cluster cannot be reached, or Dask is not installed.
    """
    if not settings.scheduler:
        yield Here()
        return
    try:
        from qupath_bridge.engine.on_cluster import opened_cluster  # it brings Dask
    except ModuleNotFoundError as error:
        raise ClusterError(
            f"--scheduler needs Dask, and {error.name} is not installed: pip install distributed"
        ) from error
    with opened_cluster(settings.scheduler, say) as computer:
        yield computer
