"""Crops around annotations: they show all, never overlap, and keep to their size."""

from itertools import combinations

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Point, box

from qupath_bridge.crops import Crop, CropPlan, crops_of, thinned

PLAN = CropPlan(cell_m=64, crop_m=256, context_m=4)
SIZE = (2000.0, 1500.0)

boxes = st.tuples(
    st.integers(0, 1900), st.integers(0, 1400), st.integers(1, 500), st.integers(1, 500)
).map(lambda b: box(b[0], b[1], min(b[0] + b[2], 2000), min(b[1] + b[3], 1500)))
rings = boxes.map(lambda b: b.buffer(30, join_style="mitre") & box(0, 0, *SIZE)).map(
    lambda b: b - b.buffer(-5) if b.buffer(-5).area else b
)


def shape_of(crop: Crop):
    return box(crop.x_m, crop.y_m, crop.x_m + crop.width_m, crop.y_m + crop.height_m)


@settings(max_examples=100, deadline=None)
@given(st.lists(boxes | rings, min_size=1, max_size=12))
def test_crops_show_every_annotation_and_never_overlap(outlines):
    crops = crops_of(outlines, SIZE, PLAN)
    shapes = [shape_of(crop) for crop in crops]
    assert all(a.intersection(b).area == 0 for a, b in combinations(shapes, 2))
    missing = shapely.unary_union(outlines) - shapely.unary_union(shapes)
    # What lies within half a pixel of a crop's edge holds no pixel's middle.
    assert missing.area < 1 + 0.5 * shapely.unary_union(outlines).length
    for crop in crops:
        assert crop.x_m % 64 == crop.y_m % 64 == crop.width_m % 64 == crop.height_m % 64 == 0
        assert 64 <= crop.width_m <= 256 and 64 <= crop.height_m <= 256
        assert 0 <= crop.x_m < 2000 and 0 <= crop.y_m < 1500
        assert any(shape_of(crop).intersects(outline) for outline in outlines)


@settings(max_examples=50, deadline=None)
@given(st.lists(boxes, min_size=1, max_size=12))
def test_all_of_an_annotation_is_in_one_cluster(outlines):
    crops = crops_of(outlines, SIZE, PLAN)
    for outline in outlines:
        inner = outline.buffer(-0.5) if outline.buffer(-0.5).area else outline.centroid
        assert len({crop.cluster for crop in crops if inner.intersects(shape_of(crop))}) <= 1


def test_near_annotations_share_a_crop_and_far_ones_do_not():
    near, far = [box(70, 70, 90, 90), box(100, 100, 120, 120)], box(800, 800, 820, 820)
    assert crops_of([*near, far], SIZE, PLAN) == [
        Crop(64, 64, 64, 64, 0), Crop(768, 768, 64, 64, 1),
    ]  # fmt: skip


def test_context_reaches_into_the_next_cell_but_not_beyond_the_slide():
    assert crops_of([box(66, 66, 90, 90)], SIZE, PLAN) == [Crop(0, 0, 128, 128, 0)]
    assert crops_of([box(0, 0, 20, 20)], SIZE, PLAN) == [Crop(0, 0, 64, 64, 0)]
    (corner,) = crops_of([box(1990, 1490, 2000, 1500)], SIZE, PLAN)
    assert (corner.x_m, corner.y_m, corner.width_m) == (1984, 1472, 64)


def test_what_lies_within_a_ring_of_crops_is_not_read_twice():
    ring = box(0, 0, 200, 200) - box(20, 20, 180, 180)
    crops = crops_of([ring, Point(100, 100).buffer(5)], SIZE, PLAN)
    assert len(crops) == 1 and crops[0].cluster == 0


def test_a_huge_annotation_is_cut_and_its_empty_middle_left_out():
    ring = box(0, 0, 1500, 1500) - box(300, 300, 1200, 1200)
    crops = crops_of([ring], SIZE, PLAN)
    assert len(crops) > 10 and {crop.cluster for crop in crops} == {0}
    assert not any(shape_of(crop).within(box(300, 300, 1200, 1200)) for crop in crops)


def test_parts_of_one_annotation_stay_together():
    parts = MultiPolygon([box(10, 10, 20, 20), box(1500, 1000, 1520, 1020)])
    crops = crops_of([parts], SIZE, PLAN)
    assert len(crops) == 2 and {crop.cluster for crop in crops} == {0}


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_many_crops_are_thinned_evenly_and_no_class_is_lost(most):
    outlines, classes = [box(0, 0, 2000, 1500), box(1000, 700, 1010, 710)], ["Tumor", "Stroma"]
    crops = crops_of(outlines, SIZE, PLAN)
    kept = thinned(crops, outlines, classes, most)
    assert kept == [crop for crop in crops if crop in kept]
    assert min(most, len(crops)) <= len(kept) <= 2 * most
    assert any(shape_of(crop).intersects(outlines[1]) for crop in kept)
    if most == 3:
        assert crops[0] in kept and crops[-1] in kept
