"""What of an image is to be segmented: its annotations, its tissue, or all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import shapely
from rasterio import features
from shapely.geometry import MultiPolygon, Polygon, box, shape
from shapely.geometry.base import BaseGeometry

from qupath_bridge.errors import RegionError
from qupath_bridge.geometry import Region, Scale
from qupath_bridge.overview import Overview
from qupath_bridge.project.base import AUTOMATIC_REGIONS, Annotation
from qupath_bridge.suggestions import IGNORED_CLASS, is_untouched
from qupath_bridge.tissue import TissueSettings, tissue_mask

LEAST_AREA_PX = 1.0
SIMPLIFY_MASK_PIXELS = 0.75
"""Takes the stairs off the mask's outline; a quarter of the margin that was added around it."""


@dataclass(frozen=True)
class RegionsFound:
    """Regions of an image, and a sentence for each annotation left out or changed.

    wants_tissue: the one region is to be the tissue, which was not looked for yet.
    """

    regions: list[Region] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    wants_tissue: bool = False


def choose_regions(
    size_l0: tuple[int, int],
    annotations: Sequence[Annotation],
    mode: str = "auto",
    classes: Sequence[str] = (),
) -> RegionsFound:
    """Return what is to be segmented, as far as that is known without a look at the pixels.

    size_l0: (width, height) of the image. See REGION_MODES for `mode`.

    Raises:
        RegionError: there is nothing to segment.
    """
    if mode == "slide":
        return RegionsFound([slide_region(*size_l0)])
    if mode == "tissue":
        return RegionsFound(wants_tissue=True)
    found = annotation_regions(annotations, size_l0, classes)
    if found.regions:
        return found
    if mode == "annotations" or classes:
        raise RegionError(
            f"no area annotation to segment{_because(found.warnings)}; draw one, or segment the"
            " tissue (--regions tissue)"
        )
    return RegionsFound(warnings=found.warnings, wants_tissue=True)


def with_tissue(found: RegionsFound, overview: Overview) -> RegionsFound:
    """Return the regions, the tissue found if it is to be.

    Raises:
        RegionError: there is no tissue.
    """
    if not found.wants_tissue:
        return found
    tissue = tissue_region(overview)
    if tissue is None:
        raise RegionError(
            "no tissue was found; draw an annotation, or segment all of the slide (--regions slide)"
        )
    return RegionsFound([tissue], found.warnings)


def done_anew(regions: Sequence[Region]) -> list[str]:
    """Return the ids of regions whose earlier objects go when these are segmented."""
    return [*(region.id for region in regions), *AUTOMATIC_REGIONS]


def annotation_regions(
    annotations: Sequence[Annotation], size_l0: tuple[int, int], classes: Sequence[str] = ()
) -> RegionsFound:
    """Return the area annotations as regions, repaired and clipped to the image, in their order.

    With `classes`, only those of these classes, by full name ("Tumor: Positive"); without, all
    but those of class `Ignore*`.

    Raises:
        RegionError: no annotation has one of the classes.
    """
    _refuse_unknown(classes, annotations)
    found = RegionsFound()
    not_areas: list[str] = []
    for number, annotation in enumerate(annotations, start=1):
        name = annotation.name or annotation.class_name or f"Annotation {number}"
        if classes and annotation.class_name not in classes:
            continue
        if not classes and is_untouched(annotation):
            continue  # nobody wants to be told of it
        if not classes and _is_ignored(annotation.class_name):
            found.warnings.append(f'annotation "{name}" was left out: its class is {IGNORED_CLASS}')
        elif annotation.geometry_l0.geom_type.endswith(("Point", "LineString", "LinearRing")):
            not_areas.append(f'"{name}"')
        else:
            _add_region(found, annotation, name, size_l0)
    if not_areas:
        found.warnings.append(
            f"{len(not_areas)} annotations were left out, being points or lines, not areas: "
            + ", ".join(not_areas)
        )
    return found


def slide_region(width: int, height: int) -> Region:
    """Return the whole image as a region."""
    return Region("slide", "Slide", "slide", box(0, 0, width, height))


def tissue_region(overview: Overview, settings: TissueSettings | None = None) -> Region | None:
    """Return where a slide has tissue, or None where it has none.

    Damaged parts are of it: there may have been tissue, and what is missing of it is to be told.
    """
    scale = overview.scale
    mask = tissue_mask(overview.rgb, overview.mpp, settings) | overview.damaged
    whole = box(0, 0, overview.width_l0, overview.height_l0)
    clipped = polygonal(mask_outline(mask, scale).intersection(whole))
    return None if clipped is None else Region("tissue", "Tissue", "tissue", clipped)


def mask_outline(mask: np.ndarray, scale: Scale) -> BaseGeometry:
    """Return the outline in level-0 pixels of a mask, bool [H, W], of pixels `scale` wide."""
    pieces = [shape(geometry) for geometry, _ in features.shapes(mask.astype(np.uint8), mask=mask)]
    # All at once: pieces that touch at a corner stay valid together only if simplified together.
    smooth = shapely.unary_union(pieces).simplify(SIMPLIFY_MASK_PIXELS)
    return scale.to_l0(shapely.make_valid(smooth))


def polygonal(geometry: BaseGeometry) -> Polygon | MultiPolygon | None:
    """Return the parts of a valid geometry that have an area, as one; None if there are none."""
    if geometry.geom_type in ("Polygon", "MultiPolygon"):
        return None if geometry.is_empty else geometry
    parts = [polygonal(part) for part in getattr(geometry, "geoms", ())]
    areas = [part for part in parts if part is not None]
    return shapely.unary_union(areas) if areas else None


def _add_region(
    found: RegionsFound, annotation: Annotation, name: str, size_l0: tuple[int, int]
) -> None:
    """Add an annotation's area to the regions, or say why it cannot be one."""
    geometry = shapely.force_2d(annotation.geometry_l0)
    trouble = _trouble_with_shape(geometry)
    if trouble is None and not geometry.is_valid:
        # As QuPath repairs: by structure, which keeps shells and holes what they are.
        geometry = shapely.make_valid(geometry, method="structure", keep_collapsed=False)
        found.warnings.append(f'annotation "{name}" crosses or touches itself and was repaired')
    area = None if trouble else polygonal(geometry)
    inside = None if area is None else polygonal(area.intersection(box(0, 0, *size_l0)))
    trouble = trouble or _trouble_with_area(area, inside)
    if trouble or area is None or inside is None:
        found.warnings.append(f'annotation "{name}" was left out: {trouble}')
        return
    if area.area - inside.area > LEAST_AREA_PX:
        found.warnings.append(f'annotation "{name}" reaches beyond the image and was clipped to it')
    found.regions.append(
        Region(annotation.id, name, "annotation", inside, class_name=annotation.class_name)
    )


def _trouble_with_shape(geometry: BaseGeometry) -> str | None:
    if geometry.is_empty:
        return "it is empty"
    if not np.isfinite(shapely.get_coordinates(geometry)).all():
        return "some of its coordinates are not numbers"
    return None


def _trouble_with_area(
    area: Polygon | MultiPolygon | None, inside: Polygon | MultiPolygon | None
) -> str | None:
    if area is None:
        return "it has no area"
    if area.area < LEAST_AREA_PX:
        return "it is smaller than one pixel"
    if inside is None:
        return "it lies outside of the image"
    if inside.area < LEAST_AREA_PX:
        return "less than one pixel of it lies in the image"
    return None


def _because(warnings: Sequence[str]) -> str:
    return f" ({warnings[0]}{', ...' if len(warnings) > 1 else ''})" if warnings else ""


def _is_ignored(class_name: str | None) -> bool:
    """Return whether a class or the class it is derived from is `Ignore*`."""
    return class_name is not None and class_name.split(":")[0].strip() == IGNORED_CLASS


def _refuse_unknown(classes: Sequence[str], annotations: Sequence[Annotation]) -> None:
    present = sorted({a.class_name for a in annotations if a.class_name})
    missing = [name for name in classes if name not in present]
    if missing:
        wanted = ", ".join(f'"{name}"' for name in missing)
        there = ", ".join(f'"{name}"' for name in present) or "none with a class"
        raise RegionError(f"no annotation has the class {wanted}; there are: {there}")
