"""A QuPath project reached through paquo, and through the Java that paquo starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jpype

from qupath_bridge.detections import is_ours, replaced_by
from qupath_bridge.errors import ImageDataError, ProjectError, SlideError
from qupath_bridge.project import entries, qpdata
from qupath_bridge.project import hierarchy as objects
from qupath_bridge.project.base import (
    AUTOMATIC_REGIONS,
    Annotation,
    ImageWrite,
    ProjectImage,
    Suggestion,
)
from qupath_bridge.project.classlist import add_classes
from qupath_bridge.project.jvm import message_of
from qupath_bridge.project.qpproj import ProjectFile, image_of
from qupath_bridge.project.uris import path_of_uri
from qupath_bridge.suggestions import is_untouched


@dataclass(frozen=True)
class _Contents:
    """What was read of an image's data while its file was as `seen` says."""

    seen: qpdata.Signature
    annotations: list[Annotation]
    detection_ids: set[str]


class PaquoProject:
    """A project as QuPath itself reads it; Java must run already (see `jvm`).

    The project file itself is never written: only an image's data and the list of classes are.

    Raises:
        ProjectError: QuPath cannot read the project.
    """

    backend = "paquo"

    def __init__(self, path: Path, reason: str) -> None:
        from paquo.projects import QuPathProject

        self.path, self.reason = path, reason
        try:
            self._project = QuPathProject(path, mode="r")
        except (OSError, ValueError, jpype.JException) as error:
            said = message_of(error) if isinstance(error, jpype.JException) else str(error)
            raise ProjectError(
                f"QuPath cannot read {path} ({said}); open it with the QuPath that saved it, or"
                " run with --backend portable"
            ) from error
        self._backed_up: set[str] = set()
        self._read: dict[str, _Contents] = {}

    @property
    def folder(self) -> Path:
        return self.path.parent

    def images(self) -> list[ProjectImage]:
        """Return the project's image entries in its order.

        Raises:
            ProjectError: it has none.
        """
        project = self._project.java_object
        before = project.getPreviousURI()
        described = tuple(map(entries.described, project.getImageList()))
        if not described:
            raise ProjectError(f"{self.path} has no images; add some in QuPath")
        saved_as = None if before is None else str(before.toString())
        file = ProjectFile(self.path, self._project.version, saved_as, described)
        return [image_of(file, entry) for entry in described]

    def read_annotations(self, image: ProjectImage) -> list[Annotation]:
        """Return an image's annotations, nested ones too.

        Raises:
            ImageDataError: the image's data file is damaged (it is left untouched).
        """
        return self._contents(image).annotations

    def detection_ids(self, image: ProjectImage) -> set[str]:
        """Return the ids of our detections in the image.

        Raises:
            ImageDataError: the image's data file is damaged (it is left untouched).
        """
        return self._contents(image).detection_ids

    def write(self, image: ProjectImage, changes: ImageWrite) -> None:
        """Bring one run's changes into the project, whole or not at all.

        Raises:
            SlideError: the image file is missing, or QuPath cannot open it.
            ImageDataError: the image's data file is damaged (it is left untouched).
            ProjectError: the data cannot be written (it is left untouched).
        """
        with self._changing(image) as hierarchy:
            _apply(hierarchy, changes)
            self._add_classes(changes)

    def write_suggestions(self, image: ProjectImage, suggestions: Sequence[Suggestion]) -> None:
        """Put these in place of earlier suggestions that nobody has touched.

        Nothing is written where there are neither.

        Raises:
            SlideError, ImageDataError, ProjectError: as `write` does.
        """
        if not suggestions and not any(map(is_untouched, self.read_annotations(image))):
            return
        with self._changing(image) as hierarchy:
            _replace_suggestions(hierarchy, suggestions)

    @contextmanager
    def _changing(self, image: ProjectImage) -> Iterator[Any]:
        """Give the hierarchy of an image; what is done to it is written, whole or not at all."""
        if not image.path.exists():
            raise SlideError(
                f"{image.path} is missing; nothing was written into the project, since QuPath would"
                " drop what it holds of an image without a file"
            )
        path = self._data_path(image.entry_id)
        with _java_errors_of(image):
            seen = qpdata.signature_of(path)
            stored = qpdata.read_stored(self.folder, image.entry_id)
            with self._image_data(image, stored) as data:
                yield data.getHierarchy()
                self._back_up_once(image.entry_id)
                qpdata.write_image_data(path, data, seen)
                with suppress(jpype.JException, ProjectError):
                    # Only shown by QuPath, which writes it anew whenever it saves.
                    qpdata.write_summary(path, data)

    def close(self) -> None:
        """Forget what was read; Java itself runs until the program ends."""
        self._read.clear()

    def _contents(self, image: ProjectImage) -> _Contents:
        seen = qpdata.signature_of(self._data_path(image.entry_id))
        known = self._read.get(image.entry_id)
        if known is None or known.seen != seen:
            with _java_errors_of(image):
                hierarchy = qpdata.read_stored(self.folder, image.entry_id).hierarchy
                annotations = [annotation for _, annotation in objects.annotations_in(hierarchy)]
                ids = set(filter(is_ours, objects.detection_ids_in(hierarchy)))
            known = _Contents(seen, annotations, ids)
            self._read = {image.entry_id: known}
        return known

    @contextmanager
    def _image_data(self, image: ProjectImage, stored: qpdata.Stored) -> Iterator[Any]:
        """Give QuPath's image data, all that is stored, with the server on which it insists."""
        entry = self._entry(image)
        try:
            data = entry.readImageData()
            server = data.getServer()
        except jpype.JException as error:
            raise SlideError(
                f"QuPath cannot open {image.path} ({message_of(error)}); nothing was written into"
                " the project. Run with --backend portable to have the outcome as GeoJSON"
            ) from error
        with closing(server):
            if data.getHierarchy().nObjects() != stored.hierarchy.nObjects():
                raise ImageDataError(
                    f"QuPath could not read {self._data_path(image.entry_id)} whole; it was left as"
                    " it is. Open the image in QuPath to see what is wrong"
                )
            qpdata.restore_history(data, stored.history)
            yield data

    def _entry(self, image: ProjectImage) -> Any:
        """Return QuPath's entry, told where the image file is now; no file is."""
        listed = self._project.java_object.getImageList()
        entry = next((e for e in listed if str(e.getID()) == image.entry_id), None)
        if entry is None:
            raise ProjectError(f"{self.path} has no image {image.entry_id}; was it removed?")
        for old in entry.getURIs():  # one, or the image would not be supported
            stored = path_of_uri(str(old))
            if stored is not None and stored.as_posix() != image.path.as_posix():
                entries.point_at(entry, old, image.path)
        return entry

    def _add_classes(self, changes: ImageWrite) -> None:
        known = [objects.path_class(c.name, c.color) for c in changes.classes]
        colors = [c.getColor() for c in known]
        names = [str(c.toString()) for c in known]
        packed = [None if color is None else int(color) for color in colors]
        add_classes(self.folder, list(zip(names, packed, strict=True)))

    def _back_up_once(self, entry_id: str) -> None:
        if entry_id not in self._backed_up:
            qpdata.back_up(self.folder, entry_id)
            self._backed_up.add(entry_id)

    def _data_path(self, entry_id: str) -> Path:
        return self.folder / "data" / entry_id / qpdata.NAME


@contextmanager
def _java_errors_of(image: ProjectImage) -> Iterator[None]:
    """Turn what Java throws into one sentence; the image's data is then as it was."""
    try:
        yield
    except jpype.JException as error:
        raise ProjectError(
            f"QuPath failed on the data of {image.name} ({message_of(error)}), which was left as it"
            " is; open the image in QuPath to see what is wrong, or run with --backend portable"
        ) from error


def _apply(hierarchy: Any, changes: ImageWrite) -> None:
    annotations = objects.annotations_in(hierarchy)
    present = [*AUTOMATIC_REGIONS, *(annotation.id for _, annotation in annotations)]
    objects.remove_detections(hierarchy, replaced_by(changes.heads, changes.region_ids, present))
    parents = {annotation.id: item for item, annotation in annotations}
    objects.add_detections(hierarchy, parents, changes.detections)
    for annotation_id, values in changes.measurements.items():
        if annotation_id in parents:
            objects.set_measurements(parents[annotation_id], values)


def _replace_suggestions(hierarchy: Any, suggestions: Sequence[Suggestion]) -> None:
    pairs = objects.annotations_in(hierarchy)
    objects.remove_objects(item for item, annotation in pairs if is_untouched(annotation))
    kept = {annotation.id for _, annotation in pairs if not is_untouched(annotation)}
    objects.add_suggestions(hierarchy, [s for s in suggestions if s.id not in kept])
