"""What a client asks for: a JSON body, checked and made a JobRequest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from model.errors import ModelError
from model.library import check_head_name, check_name
from qupath_bridge.errors import RequestError
from qupath_bridge.geometry import Mpp
from qupath_bridge.jobs.fields import Fields, check_plain, wrong
from qupath_bridge.jobs.outlines import Budget, check_regions, read_regions
from qupath_bridge.project.base import Annotation, ProjectImage
from qupath_bridge.project.serverspec import against_pixels, read_server

KINDS = ("segment", "train")
REGIONS = ("annotations", "tissue", "slide")
LONGEST_NAME = 64
MOST_HEADS = 100
RANGES = {
    "minObjectUm2": ("min_object_um2", 0.0, 1e9),
    "minHoleUm2": ("min_hole_um2", 0.0, 1e9),
    "simplifyUm": ("simplify_um", 0.0, 50.0),
    "overlap": ("overlap", 0.0, 0.75),
}
"""Options of a segmentation: JSON name -> name in RunSettings, lowest, highest."""


@dataclass(frozen=True)
class RequestLimits:
    """How much one request may ask for. depth: of the JSON. samples: images to learn from."""

    body_bytes: int = 64 * 2**20
    regions: int = 10_000
    vertices: int = 1_000_000
    depth: int = 64
    samples: int = 1000


@dataclass(frozen=True)
class ImageRequest:
    """An image as QuPath describes it; see ProjectImage. size_l0: (width, height) in QuPath."""

    uri: str
    name: str
    size_l0: tuple[int, int]
    mpp: Mpp | None = None
    server_builder: Any = None
    image_type: str | None = None
    entry_id: str | None = None
    project: str | None = None

    @cached_property
    def unsupported(self) -> str | None:
        """Return what makes the image unfit, in words; None if nothing does."""
        if self.server_builder is None:
            return against_pixels({}, self.image_type)
        spec = read_server(self.server_builder)
        return spec.unsupported or against_pixels(spec.metadata, self.image_type)

    def at(self, path: Path) -> ProjectImage:
        """Return the image as a project would describe it, its file being at `path`."""
        return ProjectImage(
            entry_id=self.entry_id or "",
            name=self.name,
            path=path,
            mpp=self.mpp,
            size_l0=self.size_l0,
            unsupported=self.unsupported,
        )


@dataclass(frozen=True)
class Sample:
    """An image and what is drawn on it: a FeatureCollection as it came, or None."""

    image: ImageRequest
    regions: Mapping[str, Any] | None

    def annotations(self) -> list[Annotation]:
        """Return what is drawn, read."""
        return [] if self.regions is None else read_regions(self.regions)


@dataclass(frozen=True)
class TrainOptions:
    """How a head is trained; None leaves the choice to the training."""

    base: str | None = None
    steps: int | None = None
    point_radius_um: float | None = None
    finetune: bool = False


@dataclass(frozen=True)
class JobRequest:
    """A job that is asked for.

    samples: one for a segmentation. model: what segments, None for the server's own; or the
    name of the model that gets the new head. regions: what to segment, see REGIONS. settings:
    those of RunSettings that were given. body: all of it as it came, to be kept.
    """

    kind: Literal["segment", "train"]
    samples: tuple[Sample, ...]
    model: str | None
    heads: tuple[str, ...]
    body: Mapping[str, Any]
    regions: str = "annotations"
    settings: Mapping[str, float] = field(default_factory=dict)
    training: TrainOptions = field(default_factory=TrainOptions)

    @property
    def image(self) -> ImageRequest:
        """Return the image, or the first of several."""
        return self.samples[0].image


def parse_job(body: Any, limits: RequestLimits | None = None) -> JobRequest:
    """Return what a parsed JSON body asks for.

    Raises:
        RequestError: it cannot be understood or is too much.
    """
    limits = limits or RequestLimits()
    check_plain(body, limits.depth)
    fields = Fields(body)
    kind = fields.take_choice("kind", KINDS, required=True)
    budget = Budget(limits.regions, limits.vertices)
    return (_segment if kind == "segment" else _train)(fields, body, limits, budget)


def _segment(fields: Fields, body: Any, limits: RequestLimits, budget: Budget) -> JobRequest:
    sample = _sample(fields, budget)
    model, heads = fields.take_text("model", most=LONGEST_NAME), _heads(fields)
    options = Fields(fields.take("options") or {}, "/options")
    chosen = options.take_choice("regions", REGIONS)
    if chosen == "annotations" and sample.regions is None:
        raise RequestError(
            "annotations are to be segmented, but none were sent; send some", "/options/regions"
        )
    settings = {
        name: value
        for key, (name, low, high) in RANGES.items()
        if (value := options.take_number(key, low, high)) is not None
    }
    options.end()
    fields.end()
    regions = chosen or ("tissue" if sample.regions is None else "annotations")
    return JobRequest("segment", (sample,), model, heads, body, regions, settings)


def _train(fields: Fields, body: Any, limits: RequestLimits, budget: Budget) -> JobRequest:
    samples = _samples(fields, limits, budget)
    model, heads = fields.take_text("model", True, LONGEST_NAME), _heads(fields)
    if len(heads) != 1:
        raise wrong("/heads", f"must name exactly one head to train, not {len(heads)}")
    _check_names(str(model), heads[0])
    options = Fields(fields.take("options") or {}, "/options")
    training = TrainOptions(
        base=options.take_text("base", most=LONGEST_NAME),
        steps=options.take_count("steps", most=100_000),
        point_radius_um=options.take_number("pointRadiusUm", 0.01, 1000),
        finetune=options.take_flag("finetune"),
    )
    options.end()
    fields.end()
    return JobRequest("train", samples, model, heads, body, training=training)


def _check_names(model: str, head: str) -> None:
    for pointer, check in (
        ("/model", lambda: check_name(model, replace=True)),
        ("/heads/0", lambda: check_head_name(head)),
    ):
        try:
            check()
        except ModelError as error:
            raise RequestError(str(error), pointer) from error


def _samples(fields: Fields, limits: RequestLimits, budget: Budget) -> tuple[Sample, ...]:
    if not fields.has("samples"):
        samples = [_sample(fields, budget)]
    else:
        listed = fields.take_list("samples", limits.samples)
        samples = []
        for number, raw in enumerate(listed):
            inner = Fields(raw, f"/samples/{number}")
            samples.append(_sample(inner, budget))
            inner.end()
    if not samples:
        raise wrong("/samples", "is empty; send at least one image with annotations")
    if all(sample.regions is None for sample in samples):
        raise RequestError("there is no annotation to learn from; send some", "/regions")
    return tuple(samples)


def _sample(fields: Fields, budget: Budget) -> Sample:
    image = _image(Fields(fields.take("image", required=True), fields.at("image")))
    regions = fields.take("regions")
    if regions is not None:
        check_regions(regions, fields.at("regions"), budget)
    return Sample(image, regions)


def _image(fields: Fields) -> ImageRequest:
    uri, name = fields.take_text("uri", True), fields.take_text("name", True)
    width, height = fields.take_count("width", True), fields.take_count("height", True)
    image = ImageRequest(
        uri=str(uri),
        name=str(name),
        size_l0=(int(width or 0), int(height or 0)),
        mpp=_pixel_size(fields),
        server_builder=fields.take("serverBuilder"),
        image_type=fields.take_text("imageType"),
        entry_id=fields.take_text("entryID", most=LONGEST_NAME),
        project=fields.take_text("project"),
    )
    fields.end()
    at = fields.at("serverBuilder")
    try:
        unsupported = image.unsupported
    except (ValueError, TypeError, AttributeError) as error:
        raise wrong(at, f"is no server builder of QuPath ({error})") from error
    if unsupported:
        raise RequestError(f"{image.name} is {unsupported}", at)
    return image


def _pixel_size(fields: Fields) -> Mpp | None:
    raw = fields.take("pixelSizeMicrons")
    if raw is None:
        return None
    sides = Fields(raw, fields.at("pixelSizeMicrons"))
    size = Mpp(sides.take_number("w", 0, 1e9, True), sides.take_number("h", 0, 1e9, True))
    sides.end()
    return size


def _heads(fields: Fields) -> tuple[str, ...]:
    heads = fields.take_list("heads", MOST_HEADS)
    for number, head in enumerate(heads):
        if not isinstance(head, str) or not 0 < len(head) <= LONGEST_NAME:
            raise wrong(f"/heads/{number}", "must be a head's name")
    return tuple(dict.fromkeys(heads))
