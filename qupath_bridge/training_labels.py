"""The annotations of a QuPath project as labels to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from model.card import HeadClass
from model.classes import Color, color_for, makes_detections
from model.labels import LabelledImage, LabelSet
from qupath_bridge.crops import Crop, CropPlan, crops_of, thinned
from qupath_bridge.drawn import Radii, as_area, that_train
from qupath_bridge.errors import RegionError, SettingsError, SlideError
from qupath_bridge.geometry import Scale
from qupath_bridge.labelled_slide import LabelledSlide, SlideFile, read_crop
from qupath_bridge.project import Annotation, Project, ProjectImage, open_project
from qupath_bridge.project.classlist import read_classes
from qupath_bridge.regions import annotation_regions


@dataclass(frozen=True)
class LabelSettings:
    """How annotations become labels.

    mpp: um per pixel, for images of which the project knows none. point_radius_um: of the disc
    that a point stands for. line_width_um: of the strip that a line stands for.
    """

    backend: str = "auto"
    mpp: float | None = None
    point_radius_um: float = 10.0
    line_width_um: float = 10.0
    crops: CropPlan = field(default_factory=CropPlan)

    def __post_init__(self) -> None:
        for name in ("point_radius_um", "line_width_um"):
            if not 0 < getattr(self, name) <= 1000:
                raise SettingsError(f"{name} must be in 0..1000, not 0; got {getattr(self, name)}")
        if self.mpp is not None and not 0.01 <= self.mpp <= 100:
            raise SettingsError(f"mpp must be in 0.01..100 um; got {self.mpp:g}")


def project_labels(
    path: Path, settings: LabelSettings, mpp: float, say: Callable[[str], None]
) -> LabelSet:
    """Return crops around a project's annotations, at `mpp` um per pixel.

    Areas, points as discs and lines as strips are labelled with their classes; where they
    overlap, the smallest lies on top, and of equal ones the later. All else is IGNORED.
    Annotations without a class, or of one that ends with `*`, do not train and cut out nothing.
    A slide is a group; where the project has only one with labels, each cluster of annotations
    that lie close together is. `say` is told what was left out or changed.

    Raises:
        RegionError: there is no annotation to learn from.
        ProjectError, SlideError: the project, or a labelled slide of it, cannot be read.
    """
    project = open_project(path, settings.backend)
    try:
        drawn = ((image, project.read_annotations(image)) for image in project.images())
        labels = drawn_labels(drawn, settings, mpp, say, read_classes(project.folder))
    finally:
        project.close()
    if labels is None:
        raise RegionError(f"{project.path} has no annotation to learn from; {_remedy(project)}")
    return replace(labels, description=f"project {project.folder.name} ({labels.description})")


def drawn_labels(
    drawn: Iterable[tuple[ProjectImage, Sequence[Annotation]]],
    settings: LabelSettings,
    mpp: float,
    say: Callable[[str], None],
    listed: Mapping[str, Color | None] | None = None,
) -> LabelSet | None:
    """Return crops around images' annotations, as `project_labels` does; None without any.

    listed: classes whose order and colours go before those of the annotations.

    Raises:
        SlideError: a labelled slide cannot be read.
    """
    slides = _one_per_file(_labelled_slides(list(drawn), settings, mpp, say))
    if not slides:
        return None
    classes = _classes(slides, listed or {})
    several = len({slide.file.path.name for slide in slides}) > 1
    images = [
        image for slide in slides for image in _images(slide, classes, several, settings.crops, say)
    ]
    count = sum(len(slide.classes) for slide in slides)
    return LabelSet(classes, images, f"{count} annotations in {len(slides)} images")


def _remedy(project: Project) -> str:
    drawn = "draw some in QuPath and give each a class"
    if project.backend == "paquo":
        return drawn
    return f"{drawn}, then export them to pathsegdiff/<entry id>/regions.geojson beside the project"


def _labelled_slides(
    drawn: Sequence[tuple[ProjectImage, Sequence[Annotation]]],
    settings: LabelSettings,
    mpp: float,
    say: Callable[[str], None],
) -> Iterator[LabelledSlide]:
    named = Counter(image.name for image, _ in drawn)
    for image, found in drawn:
        name = image.name if named[image.name] == 1 else f"{image.name} ({image.entry_id})"
        annotations = that_train(found, partial(_tell, say, name))
        if not annotations:
            continue
        slide = _labelled_slide(replace(image, name=name), annotations, settings, mpp, say)
        if slide.classes:
            yield slide


def _one_per_file(slides: Iterable[LabelledSlide]) -> list[LabelledSlide]:
    """Return the slides; labels of a file that is in the project twice are one slide's."""
    found: dict[SlideFile, LabelledSlide] = {}
    for slide in slides:
        first = found.setdefault(slide.file, slide)
        if first is not slide:
            first.outlines_m.extend(slide.outlines_m)
            first.classes.extend(slide.classes)
            first.colors.extend(slide.colors)
    return list(found.values())


def _tell(say: Callable[[str], None], image: str, text: str) -> None:
    say(f"{image}: {text}")


def _labelled_slide(
    image: ProjectImage,
    annotations: Sequence[Annotation],
    settings: LabelSettings,
    mpp: float,
    say: Callable[[str], None],
) -> LabelledSlide:
    if image.unsupported:
        raise SlideError(f"{image.name} cannot be learned from: {image.unsupported}")
    file = SlideFile(image.path, image.mpp_or(settings.mpp), image.size_l0)
    with file.open() as slide:
        scale, size_l0 = Scale.near(slide.mpp, mpp), (slide.width, slide.height)
        pixel_um = scale.pixel_um(slide.mpp)
    radii = Radii(settings.point_radius_um / pixel_um, settings.line_width_um / pixel_um / 2)
    areas = [as_area(annotation, scale, radii) for annotation in annotations]
    found = annotation_regions(areas, size_l0)
    for warning in found.warnings:
        _tell(say, image.name, warning)
    color_of = {annotation.id: annotation.class_color for annotation in annotations}
    return LabelledSlide(
        name=image.name,
        file=file,
        scale=scale,
        size_m=(size_l0[0] / scale.x, size_l0[1] / scale.y),
        outlines_m=[scale.to_m(region.outline_l0) for region in found.regions],
        classes=[str(region.class_name) for region in found.regions],
        colors=[color_of[region.id] for region in found.regions],
    )


def _classes(
    slides: Sequence[LabelledSlide], listed: Mapping[str, Color | None]
) -> tuple[HeadClass, ...]:
    """Return the classes of the labels: in the order of the project's list, then as they come.

    Its colour is the one in the project's list, else the annotation's, else ours.
    """
    said: dict[str, Color | None] = {}
    for slide in slides:
        for name, color in zip(slide.classes, slide.colors, strict=True):
            said[name] = said.get(name) or color
    known = {name: listed.get(name) or color for name, color in said.items()}
    taken = {color for color in [*listed.values(), *known.values()] if color}
    classes = []
    for name in [*(n for n in listed if n in known), *(n for n in known if n not in listed)]:
        color = known[name] or color_for(name, taken)
        taken.add(color)
        classes.append(HeadClass(name, color, makes_detections(name)))
    return tuple(classes)


def _images(
    slide: LabelledSlide,
    classes: Sequence[HeadClass],
    several: bool,
    plan: CropPlan,
    say: Callable[[str], None],
) -> Iterator[LabelledImage]:
    """Yield the crops of a slide; `several`: whether other slides have labels too."""
    code_of = {c.name: code for code, c in enumerate(classes)}
    crops = crops_of(slide.outlines_m, slide.size_m, plan)
    kept = thinned(crops, slide.outlines_m, slide.classes, plan.most)
    if len(kept) < len(crops):
        _tell(say, slide.name, f"{len(kept)} of {len(crops)} crops train, {plan.most} a class")
    areas = [(o, code_of[name]) for o, name in zip(slide.outlines_m, slide.classes, strict=True)]
    areas.sort(key=lambda area: -area[0].area)  # stable: of equal ones, the later stays on top
    for crop in kept:
        inside = tuple(area for area in areas if area[0].intersects(_box(crop)))
        read = partial(read_crop, slide.file, slide.scale, crop, inside)
        place = f"{round(crop.x_m * slide.scale.x)},{round(crop.y_m * slide.scale.y)}"
        cluster = f"{slide.name}, annotations {crop.cluster + 1}"
        yield LabelledImage(
            name=f"{slide.name} @ {place}",
            group=slide.file.path.name if several else cluster,
            read=read,
            origin_m=(crop.x_m, crop.y_m),
        )


def _box(crop: Crop) -> BaseGeometry:
    return box(crop.x_m, crop.y_m, crop.x_m + crop.width_m, crop.y_m + crop.height_m)
