"""From pixels to detections with a model of known behaviour: geometry, seams, clipping."""

from __future__ import annotations

import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
from shapely.geometry import Point, Polygon, box

from model.card import HeadCard, HeadClass, read_card
from model.home import DEFAULT_MODEL
from qupath_bridge.engine.checkpoint import Checkpoint
from qupath_bridge.engine.work import ImageWork, segment
from qupath_bridge.geometry import Mpp, Region
from qupath_bridge.overview import Overview
from qupath_bridge.segment import Engine
from qupath_bridge.settings import RunSettings
from qupath_bridge.slide import open_slide

CLASSES = (
    HeadClass("Background", (255, 255, 255), detections=False),
    HeadClass("Tumor", (200, 0, 0)),
    HeadClass("Stroma", (150, 200, 150)),
)
COLORS = np.array([(255, 255, 255), (200, 0, 0), (0, 160, 0)], float)


class ColorModel:
    """Gives each pixel the class of the nearest of three colours: translation-equivariant."""

    batch_size = 4

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def stream(self, batches):
        for key, tiles, origins_m in batches:
            yield key, self.probabilities(tiles, origins_m)

    def probabilities(self, tiles, origins_m):
        self.seen.extend(origins_m)
        distance = ((tiles[..., None, :] - COLORS) ** 2).sum(axis=-1)
        scores = np.exp(-distance / 5000)
        scores /= scores.sum(axis=-1, keepdims=True)
        return {"tissue": scores.transpose(0, 3, 1, 2).astype(np.float32)}


def engine_of(**settings) -> Engine:
    head = HeadCard(CLASSES, (1,), 1)
    card = replace(read_card(DEFAULT_MODEL), cell_m=1, heads={"tissue": head})
    chosen = RunSettings(min_object_um2=0, min_hole_um2=0, simplify_um=0, **settings)
    engine = Engine(DEFAULT_MODEL, card, ["tissue"], chosen)
    engine.model = ColorModel()
    return engine


def region(outline) -> Region:
    return Region("slide", "Slide", "slide", outline)


def found(detections, name: str):
    return shapely.union_all([d.outline_l0 for d in detections if d.class_name == name])


def write(path: Path, pixels: np.ndarray, **options) -> Path:
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256), **options)
    return path


def test_a_shape_at_the_far_corner_of_a_wide_slide_is_found_where_it_is(tmp_path):
    """Non-square pixels, a non-integer scale: nothing drifts over 100,000 px."""
    width, height = 100_003, 515
    pixels = np.full((height, width, 3), 255, np.uint8)
    truth = box(99_611, 201, 99_877, 387)
    pixels[201:387, 99_611:99_877] = (200, 0, 0)
    path = write(tmp_path / "wide.tif", pixels, compression="zlib")
    mpp = Mpp(0.2519, 0.2493)
    with open_slide(path, mpp=mpp) as slide:
        outline = box(99_000, 0, width, height)
        detections = segment(engine_of(), slide, [region(outline)], lambda n: None)
    tumor = found(detections, "Tumor")
    one_model_pixel_l0 = 0.5 / min(mpp)
    for got, true in zip(tumor.bounds, truth.bounds, strict=True):
        assert abs(got - true) <= one_model_pixel_l0
    assert tumor.area == pytest.approx(truth.area, rel=0.02)
    area_um2 = sum(d.area_um2 for d in detections if d.class_name == "Tumor")
    assert area_um2 == pytest.approx(tumor.area * mpp.x * mpp.y, rel=1e-6)


def test_seams_are_invisible_whatever_the_overlap(tmp_path):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 3, (30, 40)).repeat(25, 0).repeat(25, 1)
    path = write(tmp_path / "patches.tif", COLORS[coarse].astype(np.uint8))
    outline = box(3, 5, 990, 741)
    wanted = dict.fromkeys(("Tumor", "Stroma"))
    for overlap in (0.0, 0.3, 0.5, 0.75):
        with open_slide(path, mpp=Mpp(0.5, 0.5)) as slide:
            engine = engine_of(overlap=overlap)
            detections = segment(engine, slide, [region(outline)], lambda n: None)
        for name in wanted:
            truth = np.flatnonzero([c.name == name for c in CLASSES])[0]
            cells = (coarse == truth)[5:741, 3:990]
            assert found(detections, name).area == pytest.approx(cells.sum(), rel=1e-4)
            wanted[name] = wanted[name] or found(detections, name)
            assert found(detections, name).equals(wanted[name])


def test_output_is_clipped_to_the_region_exactly_and_leaves_no_gaps(tmp_path):
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 3, (12, 14)).repeat(50, 0).repeat(50, 1)
    path = write(tmp_path / "patches.tif", COLORS[coarse].astype(np.uint8))
    ring = Point(300, 290).buffer(250).difference(Point(330, 270).buffer(70))
    two = shapely.union_all([ring, Polygon([(600, 10), (690, 40), (610, 590)])])
    for outline in (ring, two):
        with open_slide(path, mpp=Mpp(0.5, 0.5)) as slide:
            detections = segment(engine_of(), slide, [region(outline)], lambda n: None)
        outlines = [d.outline_l0 for d in detections]
        assert all(o.is_valid and o.geom_type == "Polygon" for o in outlines)
        assert shapely.union_all(outlines).difference(outline.buffer(0.02)).area == 0
        everything = sum(o.area for o in outlines)
        assert shapely.union_all(outlines).area == pytest.approx(everything, rel=1e-4)


def test_regions_far_apart_and_holes_cost_no_tiles(tmp_path):
    pixels = np.full((4000, 4000, 3), (200, 150, 190), np.uint8)
    path = write(tmp_path / "pink.tif", pixels, compression="zlib")
    corners = shapely.union_all([box(0, 0, 100, 100), box(3900, 3900, 4000, 4000)])
    frame = box(0, 0, 4000, 4000).difference(box(400, 400, 3600, 3600))
    with open_slide(path, mpp=Mpp(0.5, 0.5)) as slide:
        engine = engine_of()
        assert len(engine.sweep(slide, Overview.of(slide), [region(corners)]).tiles) <= 18
        whole = len(engine.sweep(slide, Overview.of(slide), [region(box(0, 0, 4000, 4000))]).tiles)
        assert len(engine.sweep(slide, Overview.of(slide), [region(frame)]).tiles) < whole * 0.5
        segment(engine, slide, [region(corners)], lambda n: None)
    assert len(engine.model.seen) == len(
        engine.sweep(slide, Overview.of(slide), [region(corners)]).tiles
    )


def test_the_islands_of_a_region_have_the_objects_they_have_as_regions_of_their_own(tmp_path):
    rng = np.random.default_rng(4)
    coarse = rng.integers(0, 3, (40, 60)).repeat(40, 0).repeat(40, 1)
    path = write(tmp_path / "patches.tif", COLORS[coarse].astype(np.uint8))
    pieces = [Point(300, 700).buffer(250), box(1500, 20, 2300, 410), box(1650, 1200, 1700, 1350)]
    together = [region(shapely.union_all(pieces))]
    apart = [Region(str(n), f"{n}", "annotation", piece) for n, piece in enumerate(pieces)]
    with open_slide(path, mpp=Mpp(0.5, 0.5)) as slide:
        engine = engine_of()
        sweep = engine.sweep(slide, Overview.of(slide), together)
        assert [part.island for part in sweep.parts] == [0, 1, 2]
        one = segment(engine, slide, together, lambda n: None)
        several = segment(engine, slide, apart, lambda n: None)

    def shapes(detections):
        return {(d.class_name, d.outline_l0.normalize().wkb) for d in detections}

    assert len(one) == len(several) > 100
    assert shapes(one) == shapes(several)
    assert len({d.id for d in one}) == len(one)


def test_bare_glass_is_background_without_being_computed(tmp_path):
    pixels = np.full((2048, 2048, 3), 255, np.uint8)
    pixels[:300, :300] = (200, 0, 0)
    path = write(tmp_path / "glass.tif", pixels, compression="zlib")
    outline = box(0, 0, 2048, 2048)
    with open_slide(path, mpp=Mpp(0.5, 0.5)) as slide:
        engine = engine_of()
        detections = segment(engine, slide, [region(outline)], lambda n: None)
    assert len(engine.model.seen) < 30
    assert found(detections, "Tumor").area == pytest.approx(300 * 300, rel=1e-3)
    assert sum(d.outline_l0.area for d in detections) == pytest.approx(2048 * 2048)


def test_overlapping_regions_see_the_same_scores(tmp_path):
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 3, (20, 20)).repeat(40, 0).repeat(40, 1)
    path = write(tmp_path / "patches.tif", COLORS[coarse].astype(np.uint8))
    first = Region("a", "A", "annotation", box(0, 0, 500, 500))
    second = Region(
        "b", "B", "annotation", box(201, 203, 801, 799).intersection(box(0, 0, 800, 800))
    )
    with open_slide(path, mpp=Mpp(0.5, 0.5)) as slide:
        engine = engine_of()
        detections = segment(engine, slide, [first, second], lambda n: None)
    assert len(set(engine.model.seen)) == len(engine.model.seen)  # each tile once, for both
    both = first.outline_l0.intersection(second.outline_l0)
    tumor = [
        found([d for d in detections if d.region_id == r], "Tumor").intersection(both)
        for r in ("a", "b")
    ]
    assert tumor[0].symmetric_difference(tumor[1]).area == pytest.approx(0, abs=0.1)
    assert len({d.id for d in detections}) == len(detections)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_an_interruption_does_not_wait_for_a_region_that_is_being_traced(tmp_path):
    rng = np.random.default_rng(3)
    specks = rng.integers(0, 3, (400, 400)).repeat(2, 0).repeat(2, 1)
    path = write(tmp_path / "specks.tif", COLORS[specks].astype(np.uint8))
    whole, spool = region(box(0, 0, 800, 800)), tmp_path / "kept" / "objects" / "0-0.objects"
    ended = threading.Event()

    def interrupt() -> None:
        while not spool.exists() and not ended.wait(0.001):
            pass
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with open_slide(path, mpp=Mpp(0.5, 0.5)) as slide:
        work = ImageWork.of(engine_of(), slide, Overview.of(slide), [whole])
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            try:
                work.done(Checkpoint(tmp_path / "kept"), 4, lambda n: None)
            finally:
                ended.set()
        begun = spool.stat().st_size
        work.done(Checkpoint(tmp_path / "kept"), 4, lambda n: None)
    assert 0 < begun < spool.stat().st_size / 2
    assert len(work.engine.model.seen) == len(work.sweep.tiles)  # the bands were kept
