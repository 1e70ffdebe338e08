from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity, wkt
from shapely.geometry import (
    GeometryCollection,
    LineString,
    MultiPoint,
    MultiPolygon,
    Point,
    Polygon,
    box,
)
from shapely.geometry.base import BaseGeometry

from qupath_bridge.errors import PixelSizeError, RegionError
from qupath_bridge.geometry import Mpp, Scale
from qupath_bridge.overview import Overview
from qupath_bridge.project.base import Annotation
from qupath_bridge.regions import annotation_regions, mask_outline, slide_region, tissue_region
from qupath_bridge.slide import open_slide

SIZE = (1000, 800)


def annotation(
    geometry: BaseGeometry, name: str | None = None, class_name: str | None = None, id: str = "u"
) -> Annotation:
    return Annotation(id, name, class_name, geometry)


def not_a_number() -> Polygon:
    with np.errstate(invalid="ignore"):
        return Polygon([(0, 0), (float("nan"), 1), (5, 5), (0, 5)])


# --- annotations -----------------------------------------------------------------------------


def test_an_area_becomes_a_region_as_it_is() -> None:
    with_hole = box(100, 100, 300, 300) - box(150, 150, 200, 200)
    found = annotation_regions([annotation(with_hole, "ROI 1", "Tumor", "uuid")], SIZE)
    (region,) = found.regions
    assert (region.id, region.name, region.kind) == ("uuid", "ROI 1", "annotation")
    assert region.class_name == "Tumor"
    assert region.outline_l0.equals(with_hole)
    assert found.warnings == []


def test_several_parts_ellipses_and_overlaps_are_all_kept() -> None:
    parts = MultiPolygon([box(0, 0, 10, 10), box(20, 20, 30, 30)])
    ellipse = affinity.scale(Point(500, 400).buffer(1), 100, 50)
    found = annotation_regions([annotation(g) for g in (parts, ellipse, ellipse)], SIZE)
    assert [region.outline_l0.area for region in found.regions] == [
        200, pytest.approx(ellipse.area), pytest.approx(ellipse.area),
    ]  # fmt: skip
    assert found.warnings == []


def test_a_region_is_called_by_name_else_class_else_place() -> None:
    square = box(0, 0, 9, 9)
    named = [
        annotation(square, "Mine", "Tumor"),
        annotation(Point(1, 1)),
        annotation(square, None, "Tumor"),
        annotation(square),
        annotation(square, ""),
    ]
    names = [region.name for region in annotation_regions(named, SIZE).regions]
    assert names == ["Mine", "Tumor", "Annotation 4", "Annotation 5"]


def test_points_and_lines_are_left_out_and_listed_once() -> None:
    shapes = [Point(1, 1), MultiPoint([(1, 1), (2, 2)]), LineString([(0, 0), (9, 9)])]
    found = annotation_regions([annotation(s, f"p{i}") for i, s in enumerate(shapes)], SIZE)
    assert found.regions == []
    assert found.warnings == [
        '3 annotations were left out, being points or lines, not areas: "p0", "p1", "p2"'
    ]


@pytest.mark.parametrize(
    ("geometry", "said"),
    [
        (Polygon(), "is empty"),
        (GeometryCollection(), "is empty"),
        (not_a_number(), "not numbers"),
        (box(2000, 2000, 2100, 2100), "outside of the image"),
        (box(-100, 0, 0, 100), "outside of the image"),
        (box(5, 5, 5.5, 5.5), "smaller than one pixel"),
        (Polygon([(1, 1), (9, 9), (1, 1)]), "no area"),
        (box(-100, 0, 0.001, 100), "less than one pixel of it"),
    ],
)
def test_what_cannot_be_a_region_is_left_out_and_named(geometry: BaseGeometry, said: str) -> None:
    found = annotation_regions([annotation(geometry, "Odd one")], SIZE)
    assert found.regions == []
    assert '"Odd one" was left out' in found.warnings[-1]
    assert said in found.warnings[-1]


def test_an_invalid_outline_is_repaired_and_said() -> None:
    bow_tie = Polygon([(0, 0), (100, 100), (100, 0), (0, 100)])
    found = annotation_regions([annotation(bow_tie, "Bow")], SIZE)
    assert found.regions[0].outline_l0.is_valid
    assert found.regions[0].outline_l0.area == pytest.approx(5000)
    assert found.warnings == ['annotation "Bow" crosses or touches itself and was repaired']


def test_only_the_areas_of_a_mixed_annotation_are_used() -> None:
    mixed = GeometryCollection([box(0, 0, 10, 10), LineString([(50, 50), (90, 90)]), Point(5, 500)])
    found = annotation_regions([annotation(mixed)], SIZE)
    assert found.regions[0].outline_l0.equals(box(0, 0, 10, 10))


def test_what_reaches_beyond_the_image_is_clipped_and_said() -> None:
    found = annotation_regions([annotation(box(-50, -50, 50, 50), "Edge")], SIZE)
    assert found.regions[0].outline_l0.equals(box(0, 0, 50, 50))
    assert found.warnings == ['annotation "Edge" reaches beyond the image and was clipped to it']


def test_a_rounded_outline_at_the_rim_is_no_reason_to_talk() -> None:
    found = annotation_regions([annotation(box(-0.0004, 0, 1000, 800.0004))], SIZE)
    assert found.warnings == []


points = st.tuples(st.integers(-300, 1300), st.integers(-300, 1100))


@settings(deadline=None)
@given(st.lists(points, min_size=4, max_size=12))
def test_whatever_is_drawn_every_region_is_valid_not_empty_and_inside(
    corners: list[tuple[int, int]],
) -> None:
    found = annotation_regions([annotation(Polygon(corners), "Any")], SIZE)
    for region in found.regions:
        assert region.outline_l0.is_valid
        assert region.outline_l0.geom_type in ("Polygon", "MultiPolygon")
        assert region.outline_l0.area >= 1
        assert box(0, 0, *SIZE).covers(region.outline_l0)
    assert found.regions or found.warnings


# --- classes ---------------------------------------------------------------------------------

CLASSED = [
    annotation(box(0, 0, 10, 10), "a", "Tumor"),
    annotation(box(0, 0, 10, 10), "b", "Tumor: Positive"),
    annotation(box(0, 0, 10, 10), "c", "Ignore*"),
    annotation(box(0, 0, 10, 10), "d", "Region*"),
    annotation(box(0, 0, 10, 10), "e"),
]


def names_of(classes: list[str]) -> list[str]:
    return [region.name for region in annotation_regions(CLASSED, SIZE, classes).regions]


def test_ignored_annotations_are_left_out_with_a_note_unless_asked_for() -> None:
    found = annotation_regions(CLASSED, SIZE)
    assert [region.name for region in found.regions] == ["a", "b", "d", "e"]
    assert found.warnings == ['annotation "c" was left out: its class is Ignore*']
    assert names_of(["Ignore*"]) == ["c"]


def test_a_class_is_matched_by_its_full_name() -> None:
    assert names_of(["Tumor"]) == ["a"]
    assert names_of(["Tumor: Positive", "Region*"]) == ["b", "d"]


def test_an_unknown_class_is_an_error_that_lists_those_there_are() -> None:
    what = r'has the class "tumor"; there are: "Ignore\*", "Region\*", "Tumor", "Tumor: Positive"'
    with pytest.raises(RegionError, match=what):
        names_of(["tumor"])
    with pytest.raises(RegionError, match="there are: none with a class"):
        annotation_regions([], SIZE, ["Tumor"])


# --- the slide and its tissue ----------------------------------------------------------------


def test_the_whole_slide_is_a_region() -> None:
    region = slide_region(*SIZE)
    assert (region.id, region.name, region.kind) == ("slide", "Slide", "slide")
    assert region.outline_l0.equals(box(0, 0, *SIZE))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.floats(0.3, 0.8))
def test_a_masks_outline_is_valid_and_keeps_the_area(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((20, 30)) < share
    outline = mask_outline(mask.repeat(5, 0).repeat(5, 1), Scale(4.0, 3.0))
    assert outline.is_valid
    assert outline.area == pytest.approx(mask.sum() * 25 * 12, rel=0.1)


def write_slide(path: Path, rgb: np.ndarray) -> None:
    tifffile.imwrite(path, rgb, photometric="rgb", tile=(256, 256), compression="zlib")


def test_tissue_is_found_in_its_place_where_pixels_are_not_square(tmp_path: Path) -> None:
    rgb = np.full((1201, 1603, 3), 244, np.uint8)
    rgb[300:900, 1000:] = (205, 130, 170)
    write_slide(tmp_path / "a.tif", rgb)
    with open_slide(tmp_path / "a.tif", Mpp(0.8, 0.9)) as slide:
        region = tissue_region(Overview.of(slide))
    assert region is not None
    assert (region.id, region.name, region.kind) == ("tissue", "Tissue", "tissue")
    outline, tissue = region.outline_l0, box(1000, 300, 1603, 900)
    assert outline.is_valid
    assert outline.covers(tissue)
    assert box(0, 0, 1603, 1201).covers(outline)
    assert box(1000 - 60, 300 - 60, 1603, 900 + 60).covers(outline)


def test_a_slide_of_tissue_alone_is_one_whole_region(tmp_path: Path) -> None:
    write_slide(tmp_path / "a.tif", np.full((333, 517, 3), (205, 130, 170), np.uint8))
    with open_slide(tmp_path / "a.tif", Mpp(0.5, 0.5)) as slide:
        region = tissue_region(Overview.of(slide))
    assert region is not None
    assert region.outline_l0.equals(box(0, 0, 517, 333))


def test_bare_glass_has_no_tissue_region(tmp_path: Path) -> None:
    write_slide(tmp_path / "a.tif", np.full((400, 500, 3), 240, np.uint8))
    with open_slide(tmp_path / "a.tif", Mpp(0.5, 0.5)) as slide:
        assert tissue_region(Overview.of(slide)) is None


def test_damage_is_of_the_tissue_and_costs_no_more_than_what_it_spoils(tmp_path: Path) -> None:
    path, side = tmp_path / "a.tif", 4096
    rgb = np.full((side, side, 3), 244, np.uint8)
    rgb[1000:3000, 1000:3000] = (205, 130, 170)
    tifffile.imwrite(path, rgb, photometric="rgb", tile=(256, 256), compression="jpeg")
    with open_slide(path, Mpp(0.5, 0.5)) as slide:
        sound = tissue_region(Overview.of(slide)).outline_l0
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        places = [(page.dataoffsets[n], page.databytecounts[n]) for n in (8 * 16 + 8, 15 * 16)]
    with path.open("r+b") as file:
        for offset, count in places:
            file.seek(offset)
            file.write(b"\x07" * count)
    with open_slide(path, Mpp(0.5, 0.5)) as slide:
        overview = Overview.of(slide)
    assert 2 * 16**2 <= overview.damaged.sum() <= 2 * 64**2  # one stored tile is 16 pixels of it
    assert not overview.rgb[overview.damaged].any()
    found = tissue_region(overview).outline_l0
    assert found.buffer(20).covers(sound)
    assert found.buffer(20).covers(box(0, side - 256, 256, side))


def test_tissue_cannot_be_found_without_a_pixel_size(tmp_path: Path) -> None:
    write_slide(tmp_path / "a.tif", np.full((400, 500, 3), 240, np.uint8))
    with open_slide(tmp_path / "a.tif") as slide, pytest.raises(PixelSizeError, match=r"a\.tif"):
        tissue_region(Overview.of(slide))


def test_the_tissue_of_a_real_slide_is_found_and_its_glass_is_not(shared_data: Path) -> None:
    with open_slide(shared_data / "slides" / "CMU-1-Small-Region.svs") as slide:
        region = tissue_region(Overview.of(slide))
    assert region is not None
    assert 0.4 < region.outline_l0.area / (2220 * 2967) < 0.55
    inside, glass = wkt.loads("POINT (1000 2000)"), wkt.loads("POINT (300 2200)")
    assert region.outline_l0.contains(inside)
    assert not region.outline_l0.contains(glass)
