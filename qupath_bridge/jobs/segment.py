"""A segmentation: the same path as that of `run`, from one image to files in a job's folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model import HeadClass, read_card
from qupath_bridge.detections import Detection
from qupath_bridge.disk import replacing, write_text
from qupath_bridge.engine.checkpoint import Checkpoint
from qupath_bridge.engine.work import ImageWork
from qupath_bridge.errors import JobError, PixelSizeError
from qupath_bridge.featurecollection import write_detections
from qupath_bridge.fingerprint import made_from
from qupath_bridge.geometry import Region
from qupath_bridge.jobs.folder import JobFolder, dumped
from qupath_bridge.jobs.order import Order
from qupath_bridge.jobs.telling import Teller
from qupath_bridge.measurements import (
    ClassArea,
    ShownDetections,
    annotation_measurements,
    class_areas,
    write_class_areas,
)
from qupath_bridge.overlay import draw_regions
from qupath_bridge.overview import Overview
from qupath_bridge.regions import choose_regions, done_anew, with_tissue
from qupath_bridge.segment import Engine, Load, open_image
from qupath_bridge.settings import RunSettings, read_settings
from qupath_bridge.slide import MPP_OPTION, Slide

OVERLAY_PX = (1200, 1600)


def segment(
    order: Order, device: str, load: Load, folder: JobFolder, teller: Teller
) -> dict[str, Any]:
    """Segment an image, write what was found into `folder.work`, and return a job's result.

    Raises:
        SlideError, RegionError, ModelError, SettingsError: the image cannot be segmented.
        ProjectError: the system refused to write.
        CancelledJob: the job is to stop.
    """
    engine = _engine(order, device, load)
    teller.stage("reading the image")
    sample = order.request.samples[0]
    image = sample.image.at(order.paths[0])
    with open_image(image, engine.settings) as slide:
        _check_pixel_size(slide)
        size_l0 = (slide.width, slide.height)
        chosen = choose_regions(size_l0, sample.annotations(), engine.settings.regions)
        overview = Overview.of(slide)
        found = with_tissue(chosen, overview)
        for warning in found.warnings:
            teller.warn(warning)
        work = ImageWork.of(engine, slide, overview, found.regions)
        teller.stage("loading the model")
        checkpoint = Checkpoint(folder.checkpoint)
        made = made_from(engine.card, engine.heads, engine.settings, slide, chosen)
        begun = checkpoint.begin(work.described(made, engine.batch), False, teller.warn)
        teller.begin_tiles(len(work.sweep.tiles))
        found_there = work.done(checkpoint, begun["batch"], teller.advance)
        for warning in found_there.warnings:
            teller.warn(warning)
        objects = found_there.objects
        teller.stage("writing")
        rows = class_areas(image, found.regions, objects, engine.classes, slide.mpp)
        shown = ShownDetections(objects, engine.classes)
        _write(folder.begin_result(), shown, rows, found.regions, engine.heads)
        teller.stage("writing")
        _draw(folder.work / folder.overlay.name, slide, found.regions, shown)
        whole_um2 = sum(r.outline_l0.area for r in found.regions) * slide.mpp.pixel_area_um2
    summed = _summed(rows, engine.classes, whole_um2)
    objects_in_all = sum(row.objects for row in rows)
    return {"regions": len(found.regions), "objects": objects_in_all, "classes": summed}


def _engine(order: Order, device: str, load: Load) -> Engine:
    """Return the model and how it is applied: as `run` with these options would."""
    if order.folder is None:
        raise JobError("the job names no model; ask again")
    card = read_card(order.folder)
    flags = {"images": (), "region_classes": (), "regions": order.request.regions}
    settings: RunSettings = read_settings({**flags, "device": device, **order.request.settings})
    return Engine(order.folder, card, card.choose_heads(order.heads), settings, load)


def _check_pixel_size(slide: Slide) -> None:
    """Check that there is a pixel size that can be true.

    Raises:
        PixelSizeError: there is not.
    """
    try:
        _ = slide.mpp
    except PixelSizeError as error:
        # There is no command line here.
        raise PixelSizeError(str(error).removesuffix(MPP_OPTION)) from error


def _write(
    folder: Path,
    detections: Iterable[Detection],
    rows: Sequence[ClassArea],
    regions: Sequence[Region],
    heads: Sequence[str],
) -> None:
    write_detections(folder / "detections.geojson.gz", detections)
    write_class_areas(folder / "class_areas.tsv", rows)
    drawn = {region.id for region in regions if region.kind == "annotation"}
    content = {
        "rows": [_row(row) for row in rows],
        "measurements": {
            region_id: values
            for region_id, values in annotation_measurements(rows).items()
            if region_id in drawn
        },
        "heads": list(heads),
        "regionIds": done_anew(regions),
    }
    write_text(folder / "class_areas.json", dumped(content))


def _row(row: ClassArea) -> dict[str, Any]:
    return {
        "image": row.image,
        "region": row.region,
        "regionId": row.region_id,
        "head": row.head,
        "class": row.class_name,
        "areaUm2": row.area_um2,
        "percent": row.percent,
        "objects": row.objects,
    }


def _draw(
    path: Path, slide: Slide, regions: Sequence[Region], detections: Iterable[Detection]
) -> None:
    picture = draw_regions(slide, regions, detections, OVERLAY_PX)
    with replacing(path) as beside:
        picture.save(beside, format="PNG")


def _summed(
    rows: Sequence[ClassArea], classes: Mapping[str, Sequence[HeadClass]], whole_um2: float
) -> list[dict[str, Any]]:
    """Return each class over all regions, which are `whole_um2` together."""
    areas: dict[tuple[str, str], float] = defaultdict(float)
    objects: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        areas[row.head, row.class_name] += row.area_um2
        objects[row.head, row.class_name] += row.objects
    return [
        {
            "head": head,
            "class": kind.name,
            "color": list(kind.color),
            "areaUm2": areas[head, kind.name],
            "percent": 100 * areas[head, kind.name] / whole_um2,
            "objects": objects[head, kind.name],
        }
        for head, kinds in classes.items()
        for kind in kinds
    ]
