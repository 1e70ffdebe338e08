"""One head of a region: what comes in tiles is traced as the whole map would be."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from shapely.geometry import Point, box
from shapely.geometry.base import BaseGeometry

from model import HeadClass
from qupath_bridge.classmap import stacked
from qupath_bridge.fusion import Fuser
from qupath_bridge.glands import GlandBands, GlandClasses
from qupath_bridge.heads import HeadTracer
from qupath_bridge.polygons import PolygonSettings, TracedObject, in_order, trace
from qupath_bridge.tiles import Tile, TilePlan, tiles_of

MPP = 0.5
PLAN = TilePlan(tile_m=64, stride_m=32, margin_m=8, cell_m=2)
SETTINGS = PolygonSettings(20, 30, 1)
RING = Point(150, 170).buffer(120).difference(Point(160, 160).buffer(60))
GREY = (128, 128, 128)
CLASSES = tuple(HeadClass(name, GREY) for name in ("Tumor", "Stroma", "Necrosis"))
GLANDS = (
    HeadClass("Other", GREY, detections=False),
    HeadClass("Gland", GREY),
    HeadClass("Gland border", GREY),
)


def waves(tile: Tile) -> np.ndarray:
    """Return probabilities float32 [3, h, w] that depend on the place alone."""
    steps = (np.arange(PLAN.tile_cells) + 0.5) * PLAN.cell_m
    y, x = np.meshgrid(tile.y_m + steps, tile.x_m + steps, indexing="ij")
    scores = np.exp(3 * np.stack([np.sin(x / 9 + y / 23), np.cos(y / 11 - x / 40), np.sin(x / 7)]))
    return (scores / scores.sum(axis=0)).astype(np.float32)


def described(objects: list[TracedObject]) -> list[tuple]:
    return [(o.code, o.outline_m.wkb, o.probability, o.entropy) for o in objects]


def whole_map(outline: BaseGeometry):
    fuser = Fuser(PLAN, outline, 3)
    for tile in tiles_of(outline, PLAN):
        fuser.add(tile, waves(tile))
    return fuser.class_map()


def tracer_fed(outline: BaseGeometry, classes: tuple[HeadClass, ...]) -> HeadTracer:
    """Return a tracer that has taken in all bands, as they were finished."""
    fuser = Fuser(PLAN, outline, 3)
    tracer = HeadTracer(fuser.frame, outline, classes, MPP, SETTINGS)
    for tile in tiles_of(outline, PLAN):
        fuser.add(tile, waves(tile))
        tracer.take(fuser.bands())
    tracer.take(fuser.last_bands())
    return tracer


def traced_by_head(outline: BaseGeometry, classes: tuple[HeadClass, ...]) -> list[TracedObject]:
    return list(tracer_fed(outline, classes).objects())


@pytest.mark.parametrize("outline", [RING, box(0.5, 3.2, 400, 210), box(33.3, 41.7, 34.1, 300.2)])
def test_a_head_gives_the_objects_of_its_whole_map(outline):
    expected = trace(whole_map(outline), outline, MPP, SETTINGS)
    assert expected
    found = traced_by_head(outline, CLASSES)
    assert described(in_order(found)) == described(expected)
    assert described(traced_by_head(outline, CLASSES)) == described(found)


def test_a_head_with_borders_gives_whole_glands():
    bands = GlandBands(GLANDS, MPP * 2, SETTINGS.min_object_um2)
    glands = stacked([*bands.add(whole_map(RING)), *bands.last()])
    class_of = GlandClasses.of(GLANDS).class_of
    expected = [replace(o, code=class_of(o.code)) for o in trace(glands, RING, MPP, SETTINGS)]
    found = in_order(traced_by_head(RING, GLANDS))
    assert described(found) == described(in_order(expected))
    assert {o.code for o in found} == {0, 1}


def test_what_is_held_until_the_last_tile_is_far_less_than_the_map(monkeypatch):
    monkeypatch.setattr("qupath_bridge.strips.STRIP_CELLS", 200 * 64)

    def peak(height: int) -> int:
        outline = box(0, 0, 380, height)
        tracemalloc.start()
        tracer_fed(outline, CLASSES)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    peak(64)  # what is loaded once
    map_bytes = 7 * 190 * (4000 - 800) // 2
    assert peak(4000) - peak(800) < map_bytes / 5
