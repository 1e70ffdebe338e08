"""Detections on QuPath's grid, areas that add up, and the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from shapely.geometry import Point, Polygon, box
from steps import steps_of

from model import HeadClass
from qupath_bridge.classmap import ClassMap
from qupath_bridge.detections import Detection, head_key, head_key_of, region_key, region_key_of
from qupath_bridge.errors import ProjectError
from qupath_bridge.geometry import Mpp, Region, Scale
from qupath_bridge.measurements import (
    COLUMNS,
    ClassArea,
    ShownDetections,
    annotation_measurements,
    class_areas,
    make_detections,
    read_class_areas,
    write_class_areas,
)
from qupath_bridge.polygons import PolygonSettings, TracedObject, trace
from qupath_bridge.project.base import ProjectImage

MPP = Mpp(0.2521, 0.2533)
MODEL_MPP = 0.5
SCALE = Scale.between(MPP, MODEL_MPP)
CLASSES = {
    "tissue": (
        HeadClass("Background", (255, 255, 255), detections=False),
        HeadClass("Tumor", (200, 0, 0)),
        HeadClass("Stroma", (150, 200, 150)),
        HeadClass("Necrosis", (50, 50, 50)),
    )
}
IMAGE = ProjectImage("1", "a b ü.svs", Path("a b ü.svs"), MPP, None)


def region_of(outline_m: Polygon, name: str = "Region 1", region_id: str = "r-1") -> Region:
    return Region(region_id, name, "annotation", SCALE.to_l0(outline_m))


def traced(region: Region, seed: int = 0) -> list[TracedObject]:
    """Return what is traced in a region of a map of blobs of three classes."""
    noise = np.random.default_rng(seed).standard_normal((3, 120, 120))
    codes = ndimage.gaussian_filter(noise, (0, 4, 4)).argmax(axis=0).astype(np.uint8)
    sure = steps_of(np.full(codes.shape, 0.7))
    class_map = ClassMap(codes, sure, sure, 1000, 3000, 2)
    return trace(class_map, SCALE.to_m(region.outline_l0), MODEL_MPP, PolygonSettings(20, 10, 1))


def detections_in(region: Region, seed: int = 0) -> list[Detection]:
    made = make_detections(traced(region, seed), SCALE, MPP, "tissue", region, CLASSES["tissue"])
    return list(made)


DISC = region_of(Point(1120, 3120).buffer(100))
OTHER = region_of(box(1050, 3050, 1150, 3180), "Region 2", "r-2")


def test_detections_are_valid_polygons_on_the_grid_of_a_hundredth_of_a_pixel():
    shapes = np.array([d.outline_l0 for d in detections_in(DISC)])
    coordinates = shapely.get_coordinates(shapes)
    assert shapely.is_valid(shapes).all()
    assert (shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON).all()
    np.testing.assert_array_equal(coordinates, np.round(coordinates, 2))
    assert shapely.is_ccw(shapely.get_exterior_ring(shapes)).all()


def test_areas_are_those_of_the_rounded_outlines_in_um2():
    for detection in detections_in(DISC):
        assert detection.area_um2 == pytest.approx(detection.outline_l0.area * MPP.x * MPP.y)


def test_an_area_in_um2_is_the_same_in_every_frame():
    objects = traced(DISC)
    detections = make_detections(objects, SCALE, MPP, "tissue", DISC, CLASSES["tissue"])
    for found, detection in zip(objects, detections, strict=True):
        assert detection.area_um2 == pytest.approx(found.outline_m.area * MODEL_MPP**2, rel=1e-3)


def test_detections_stay_disjoint_after_rounding():
    shapes = [d.outline_l0 for d in detections_in(DISC)]
    together = shapely.union_all(shapes)
    assert sum(s.area for s in shapes) == pytest.approx(together.area, rel=1e-7)
    assert together.symmetric_difference(DISC.outline_l0).area < 1e-4 * together.area


def test_ids_are_unique_and_tell_head_and_region():
    ids = [d.id for region in (DISC, OTHER) for d in detections_in(region)]
    assert len(set(ids)) == len(ids)
    assert {head_key_of(i) for i in ids} == {head_key("tissue")}
    assert {region_key_of(i) for i in ids} == {region_key("r-1"), region_key("r-2")}


def test_the_same_objects_have_the_same_ids_again():
    assert [d.id for d in detections_in(DISC)] == [d.id for d in detections_in(DISC)]


def test_even_equal_objects_have_ids_of_their_own():
    same = TracedObject(1, box(0, 0, 5, 5), 0.5, 0.4)
    made = list(make_detections([same, same], SCALE, MPP, "tissue", DISC, CLASSES["tissue"]))
    assert made[0].id != made[1].id


def test_an_object_that_hangs_together_by_less_than_the_grid_becomes_two():
    bow_tie = Polygon([(0, 0), (10, 0), (10, 10), (5, 1e-4), (0, 10)])
    hair = box(20, 0, 30, 1e-4)
    pinhole = box(0, 20, 10, 30).difference(box(4, 24, 4.0001, 24.0001))
    objects = [TracedObject(1, outline, 0.5, 0.4) for outline in (bow_tie, hair, pinhole)]
    made = list(make_detections(objects, Scale(1, 1), Mpp(1, 1), "tissue", DISC, CLASSES["tissue"]))
    assert [d.outline_l0.is_valid for d in made] == [True] * 3
    assert [d.outline_l0.area for d in made] == pytest.approx([25, 25, 100], abs=0.1)
    assert len(made[2].outline_l0.interiors) == 0


def test_objects_are_taken_as_they_are_wanted_and_equal_ones_are_told_apart_for_long():
    same, taken = TracedObject(1, box(0, 0, 5, 5), 0.5, 0.4), []

    def coming() -> Iterator[TracedObject]:
        for number in range(9000):
            taken.append(number)
            yield (
                same if number % 4500 == 0 else TracedObject(1, box(number, 0, number + 5, 5), 0, 0)
            )

    made = make_detections(coming(), SCALE, MPP, "tissue", DISC, CLASSES["tissue"])
    first = next(made)
    assert len(taken) <= 1000
    ids = [first.id, *(d.id for d in made)]
    assert len(set(ids)) == len(ids) == 9000


def test_no_objects_make_no_detections():
    assert not list(make_detections([], SCALE, MPP, "tissue", DISC, CLASSES["tissue"]))


def test_a_detection_carries_its_class_probability_and_entropy():
    found = TracedObject(2, box(0, 0, 5, 5), 0.12345678, 0.87654321)
    made = list(make_detections([found], SCALE, MPP, "tissue", DISC, CLASSES["tissue"]))
    assert (made[0].class_name, made[0].color) == ("Stroma", (150, 200, 150))
    assert (made[0].head, made[0].region_id) == ("tissue", "r-1")
    assert (made[0].mean_probability, made[0].mean_entropy) == (0.123457, 0.876543)


def test_only_silent_classes_are_left_out_of_what_is_shown():
    detections = detections_in(DISC)
    shown = list(ShownDetections(detections, CLASSES))
    assert shown == [d for d in detections if d.class_name != "Background"]
    assert len(shown) < len(detections)


@pytest.fixture
def rows() -> list[ClassArea]:
    objects = [d for region in (DISC, OTHER) for d in detections_in(region)]
    return class_areas(IMAGE, [DISC, OTHER], objects, CLASSES, MPP)


def test_there_is_a_row_for_every_region_and_class_zeros_included(rows):
    names = [c.name for c in CLASSES["tissue"]]
    assert [(r.region_id, r.class_name) for r in rows] == [
        (region_id, name) for region_id in ("r-1", "r-2") for name in names
    ]
    empty = [r for r in rows if r.class_name == "Necrosis"]
    assert [(r.area_um2, r.percent, r.objects) for r in empty] == [(0, 0, 0)] * 2
    assert {(r.image, r.entry_id, r.head) for r in rows} == {("a b ü.svs", "1", "tissue")}


def test_the_areas_of_a_head_add_up_to_the_region(rows):
    for region in (DISC, OTHER):
        of_region = [row for row in rows if row.region_id == region.id]
        whole_um2 = region.outline_l0.area * MPP.x * MPP.y
        assert sum(r.area_um2 for r in of_region) == pytest.approx(whole_um2, rel=1e-4)
        assert sum(r.percent for r in of_region) == pytest.approx(100, rel=1e-4)


def test_each_area_is_the_sum_of_its_detections(rows):
    for row in rows:
        region = DISC if row.region_id == "r-1" else OTHER
        mine = [d.area_um2 for d in detections_in(region) if d.class_name == row.class_name]
        assert row.area_um2 == pytest.approx(sum(mine))
        assert row.objects == (0 if row.silent else len(mine))


def test_a_silent_class_has_area_but_no_objects(rows):
    background = next(row for row in rows if row.class_name == "Background")
    assert background.silent
    assert background.area_um2 > 0
    assert background.objects == 0


def test_without_regions_there_are_no_rows():
    assert class_areas(IMAGE, [], [], CLASSES, MPP) == []


def test_annotations_get_area_and_share_of_every_shown_class(rows):
    values = annotation_measurements(rows)
    assert set(values) == {"r-1", "r-2"}
    tumor = next(row for row in rows if row.class_name == "Tumor")
    assert values["r-1"]["PathSegDiff: Tumor area µm^2"] == tumor.area_um2
    assert values["r-1"]["PathSegDiff: Tumor %"] == tumor.percent
    assert len(values["r-1"]) == 2 * 3
    assert not any("Background" in name for name in values["r-1"])


def test_a_class_of_two_heads_is_told_apart_by_its_head(rows):
    second = [replace(r, head="glands") for r in rows if r.class_name in ("Tumor", "Background")]
    names = annotation_measurements([*rows, *second])["r-1"]
    assert "PathSegDiff: tissue: Tumor %" in names
    assert "PathSegDiff: glands: Tumor area µm^2" in names
    assert "PathSegDiff: Tumor %" not in names
    assert "PathSegDiff: Stroma %" in names


@pytest.mark.parametrize(("name", "delimiter"), [("a.tsv", "\t"), ("a.csv", ","), ("a.CSV", ",")])
def test_the_table_has_these_columns_and_fixed_decimals(tmp_path, rows, name, delimiter):
    write_class_areas(tmp_path / name, rows)
    text = (tmp_path / name).read_bytes().decode("utf-8")
    lines = text.split("\n")
    header = "Image|Entry ID|Region|Region ID|Head|Class|Area µm^2|Area %|Objects"
    assert lines[0].split(delimiter) == header.split("|")
    area, percent, objects = lines[2].split(delimiter)[-3:]
    assert area == f"{rows[1].area_um2:.3f}"
    assert percent == f"{rows[1].percent:.4f}"
    assert objects == str(rows[1].objects)
    assert len(lines) == len(rows) + 2


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
@given(given_names=st.lists(st.tuples(*[names] * 6), max_size=4))
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_table_of_any_names_reads_back(suffix, given_names, tmp_path):
    path = tmp_path / f"areas{suffix}"
    written = [ClassArea(*n, area_um2=1234.5, percent=12.25, objects=7) for n in given_names]
    write_class_areas(path, written)
    assert read_class_areas(path) == written


def test_a_table_that_a_spreadsheet_saved_reads_back(tmp_path, rows):
    path = tmp_path / "a.csv"
    write_class_areas(path, rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert [r.objects for r in read_class_areas(path)] == [r.objects for r in rows]


def test_a_failing_write_leaves_the_old_table(tmp_path, rows):
    path = tmp_path / "a.tsv"
    write_class_areas(path, rows)
    before = path.read_bytes()

    def breaking():
        yield rows[0]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_class_areas(path, breaking())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Image\tArea\n",
        "\t".join(COLUMNS).encode() + b"\na\tb\n",
        "\t".join(COLUMNS).encode() + b"\n1\t2\t3\t4\t5\t6\tx\t8\t9\n",
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_table_is_refused_by_name(tmp_path, content):
    path = tmp_path / "class_areas.tsv"
    path.write_bytes(content)
    with pytest.raises(ProjectError, match=r"class_areas\.tsv"):
        read_class_areas(path)
