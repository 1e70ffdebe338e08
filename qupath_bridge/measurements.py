"""Traced objects -> detections in level-0 pixels, and the areas of classes."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely

from model import HeadClass
from qupath_bridge.detections import Detection, TakenIds, detection_id
from qupath_bridge.disk import replacing
from qupath_bridge.errors import ProjectError
from qupath_bridge.geometry import Mpp, Region, Scale
from qupath_bridge.project.base import ProjectImage

if TYPE_CHECKING:
    from qupath_bridge.polygons import TracedObject

OBJECTS_AT_ONCE = 1000
GRID_L0 = 0.01  # QuPath rounds coordinates to this
MEASUREMENT_PREFIX = "PathSegDiff: "
COLUMNS = (
    "Image",
    "Entry ID",
    "Region",
    "Region ID",
    "Head",
    "Class",
    "Area µm^2",
    "Area %",
    "Objects",
)


@dataclass(frozen=True)
class ClassArea:
    """What one class of one head covers of one region.

    percent: of the region's area. objects: the detections; none of a `silent` class, which is
    measured only.
    """

    image: str
    entry_id: str
    region: str
    region_id: str
    head: str
    class_name: str
    area_um2: float
    percent: float
    objects: int
    silent: bool = False


def make_detections(
    traced: Iterable[TracedObject],
    scale: Scale,
    mpp: Mpp,
    head: str,
    region: Region,
    classes: Sequence[HeadClass],
    taken: TakenIds | None = None,
) -> Iterator[Detection]:
    """Yield traced objects of all classes in level-0 pixels, outlines as QuPath would keep them.

    Points are on a grid of 0.01 px, outer rings run as RFC 7946 has it (counter-clockwise with y
    up), and areas are those of the rounded outlines. An object that hangs together by less than
    the grid becomes several, one narrower than the grid none. `ShownDetections` are those to show.
    Their ids are unique among those of one call, and those `taken` by the calls before.
    """
    ids, coming = TakenIds() if taken is None else taken, iter(traced)
    while objects := list(islice(coming, OBJECTS_AT_ONCE)):
        outlines_m = np.array([o.outline_m for o in objects], dtype=object)
        outlines, owner = _on_grid(scale.all_to_l0(outlines_m))
        described = (outlines, shapely.to_wkb(outlines), shapely.area(outlines), owner)
        for outline, wkb, area, index in zip(*described, strict=True):
            kind = classes[objects[index].code]
            yield Detection(
                id=_new_id(ids, head, region.id, kind.name.encode() + b"\0" + wkb),
                head=head,
                region_id=region.id,
                class_name=kind.name,
                color=kind.color,
                outline_l0=outline,
                area_um2=float(area) * mpp.pixel_area_um2,
                mean_probability=round(objects[index].probability, 6),
                mean_entropy=round(objects[index].entropy, 6),
            )


@dataclass(frozen=True)
class ShownDetections:
    """The detections of classes that are shown as objects; to be iterated over as often as `all`.

    classes: those by head.
    """

    all: Iterable[Detection]
    classes: Mapping[str, Sequence[HeadClass]]

    def __iter__(self) -> Iterator[Detection]:
        silent = {
            (head, kind.name)
            for head, kinds in self.classes.items()
            for kind in kinds
            if not kind.detections
        }
        return (d for d in self.all if (d.head, d.class_name) not in silent)


def _on_grid(outlines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return valid polygons on the grid, and the index of the outline each one comes from."""
    points, of = shapely.get_coordinates(outlines, return_index=True)
    on_grid = np.round(points, decimals=round(-np.log10(GRID_L0)))
    moved = np.unique(of[(points != on_grid).any(axis=1)])
    rounded = shapely.set_coordinates(outlines.copy(), on_grid)
    broken = np.zeros(len(outlines), bool)
    broken[moved] = ~shapely.is_valid(rounded[moved])
    rounded[~broken] = shapely.remove_repeated_points(rounded[~broken])
    mended = shapely.set_precision(outlines[broken], GRID_L0)
    rounded[broken] = shapely.set_precision(mended, 0, mode="pointwise")
    parts, owner = shapely.get_parts(rounded, return_index=True)
    has_area = shapely.area(parts) > 0
    return shapely.orient_polygons(parts[has_area]), owner[has_area]


def _new_id(taken: TakenIds, head: str, region_id: str, contents: bytes) -> str:
    """Return an id that is not among those taken, and add it to them."""
    while (new := detection_id(head, region_id, contents)) in taken:
        contents += b"+"
    taken.add(new)
    return new


def class_areas(
    image: ProjectImage,
    regions: Sequence[Region],
    objects: Iterable[Detection],
    classes: Mapping[str, Sequence[HeadClass]],
    mpp: Mpp,
) -> list[ClassArea]:
    """Return one row for each region, head and class, zeros included.

    `objects` are all that `make_detections` gave, those of silent classes too: without them a
    head's classes would not add up to the region. `classes` are those by head.
    """
    areas: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for found in objects:
        areas[found.region_id, found.head, found.class_name].append(found.area_um2)
    kinds = [(head, kind) for head, of_head in classes.items() for kind in of_head]
    rows = []
    for region in regions:
        whole_um2 = region.outline_l0.area * mpp.pixel_area_um2
        for head, kind in kinds:
            covered = areas[region.id, head, kind.name]
            rows.append(
                ClassArea(
                    image=image.name,
                    entry_id=image.entry_id,
                    region=region.name,
                    region_id=region.id,
                    head=head,
                    class_name=kind.name,
                    area_um2=sum(covered),
                    percent=100 * sum(covered) / whole_um2,
                    objects=len(covered) if kind.detections else 0,
                    silent=not kind.detections,
                )
            )
    return rows


def annotation_measurements(rows: Iterable[ClassArea]) -> dict[str, dict[str, float]]:
    """Return by region id what QuPath shows of an annotation: area and share of each class.

    Silent classes are left out. Where several heads of a region have a class of one name, the
    head goes before it.
    """
    shown = [row for row in rows if not row.silent]
    heads_with = Counter((row.region_id, row.class_name) for row in shown)
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for row in shown:
        alone = heads_with[row.region_id, row.class_name] == 1
        name = MEASUREMENT_PREFIX + ("" if alone else f"{row.head}: ") + row.class_name
        values[row.region_id] |= {f"{name} area µm^2": row.area_um2, f"{name} %": row.percent}
    return dict(values)


def write_class_areas(path: Path, rows: Iterable[ClassArea]) -> None:
    """Write rows as a table, whole or not at all: commas in a .csv, tabs in anything else.

    Raises:
        ProjectError: the system refused to write.
    """
    with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as stream:
        table, quoted = (
            csv.writer(stream, delimiter=_delimiter(path), lineterminator="\n", quoting=quoting)
            for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
        )
        table.writerow(COLUMNS)
        for row in rows:
            names = (row.image, row.entry_id, row.region, row.region_id, row.head, row.class_name)
            # Before Python 3.13 csv leaves a lone carriage return unquoted.
            writer = quoted if any("\r" in name for name in names) else table
            writer.writerow([*names, f"{row.area_um2:.3f}", f"{row.percent:.4f}", row.objects])


def read_class_areas(path: Path) -> list[ClassArea]:
    """Return the rows of a table; it does not tell which classes are silent.

    Raises:
        ProjectError: the file cannot be read or is no such table.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return list(_rows_of(csv.reader(stream, delimiter=_delimiter(path), strict=True)))
    except (OSError, ValueError, csv.Error) as error:
        raise ProjectError(
            f"{path} is no table of class areas ({error}); write it anew with `export`"
        ) from error


def _rows_of(table: Iterator[list[str]]) -> Iterator[ClassArea]:
    if (header := tuple(next(table, ()))) != COLUMNS:
        raise ValueError(f"its columns are {', '.join(header) or 'missing'}")
    for *names, area, percent, objects in table:
        image, entry_id, region, region_id, head, class_name = names
        yield ClassArea(
            image=image,
            entry_id=entry_id,
            region=region,
            region_id=region_id,
            head=head,
            class_name=class_name,
            area_um2=float(area),
            percent=float(percent),
            objects=int(objects),
        )


def _delimiter(path: Path) -> str:
    return "," if path.suffix.lower() == ".csv" else "\t"
