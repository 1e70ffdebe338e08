"""What every face of a QuPath project offers: the protocol and its plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from qupath_bridge.detections import Detection
from qupath_bridge.geometry import Mpp

AUTOMATIC_REGIONS = ("tissue", "slide")
"""Regions that no annotation stands for: every run replaces what earlier ones made in them."""


@dataclass(frozen=True)
class ProjectImage:
    """One image entry of a project, as the project describes it.

    `path` is the file that was found (moved projects: relative to the project first), or where
    it was expected if none was found. `mpp` is the project's own pixel size, which beats the
    file's; None where the project has none. `size_l0` is (width, height) as the project records it.
    `unsupported` names what makes the image unfit (a rotated server, fluorescence, ...), else None.
    """

    entry_id: str
    name: str
    path: Path
    mpp: Mpp | None
    size_l0: tuple[int, int] | None
    unsupported: str | None = None

    def mpp_or(self, given_um: float | None) -> Mpp | None:
        """Return the project's pixel size, else the one given for images that have none there."""
        return self.mpp or (Mpp(given_um, given_um) if given_um else None)


@dataclass(frozen=True)
class Annotation:
    """One annotation of an image; geometry in level-0 pixels, of any type, perhaps invalid.

    class_color is its class's, (r, g, b), 0..255; None where it says none.
    """

    id: str
    name: str | None
    class_name: str | None
    geometry_l0: BaseGeometry
    class_color: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class ProjectClass:
    """A class of the project's list; color is (r, g, b), 0..255."""

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class ImageWrite:
    """All that one run changes in one image.

    `heads` and `region_ids` say what was done anew: earlier objects of ours that belong to one
    of these heads AND either to one of these regions or to a region that is no longer there, are
    replaced by `detections`, which may be iterated over more than once and be more than memory
    holds; every other object stays. `measurements` maps an annotation's id to
    the full set of `PathSegDiff: ...` values it shall have; others with that prefix go.
    """

    heads: Sequence[str]
    region_ids: Sequence[str]
    detections: Iterable[Detection]
    measurements: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    classes: Sequence[ProjectClass] = ()


@dataclass(frozen=True)
class Suggestion:
    """A square to annotate next, an annotation of ours; see `suggestions`.

    outline_l0: level-0 pixels. measurements: why it is suggested, by QuPath's names.
    """

    id: str
    name: str
    outline_l0: Polygon
    measurements: Mapping[str, float] = field(default_factory=dict)


class Project(Protocol):
    """A QuPath project, however it is reached."""

    backend: str
    """"paquo" or "portable"."""

    reason: str
    """Which face this is and why, for the user."""

    path: Path
    """The .qpproj file."""

    @property
    def folder(self) -> Path: ...

    def images(self) -> list[ProjectImage]:
        """Return the project's image entries in its order."""
        ...

    def read_annotations(self, image: ProjectImage) -> list[Annotation]:
        """Return an image's annotations.

        Raises:
            ImageDataError: the image's data file is damaged (it is left untouched).
        """
        ...

    def detection_ids(self, image: ProjectImage) -> set[str] | None:
        """Return ids of our detections in the project; None where they live only in GeoJSON."""
        ...

    def write(self, image: ProjectImage, changes: ImageWrite) -> None:
        """Bring one run's changes into the project, whole or not at all."""
        ...

    def write_suggestions(self, image: ProjectImage, suggestions: Sequence[Suggestion]) -> None:
        """Put these in place of earlier suggestions that nobody has touched, or of none."""
        ...

    def close(self) -> None: ...
