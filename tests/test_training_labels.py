"""Annotations of a QuPath project as labels to train on."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shapely.geometry import (
    GeometryCollection,
    LineString,
    MultiPoint,
    MultiPolygon,
    Point,
    Polygon,
    box,
    mapping,
)
from shapely.geometry.base import BaseGeometry

from model.errors import ModelError
from model.labels import IGNORED, LabelSet, check_labels, merge
from model.split import split, split_by
from qupath_bridge.crops import CropPlan
from qupath_bridge.demo.qpproj import classes_json
from qupath_bridge.disk import write_json
from qupath_bridge.drawn import Radii, as_area
from qupath_bridge.errors import PixelSizeError, RegionError, SettingsError, SlideError
from qupath_bridge.geometry import Scale
from qupath_bridge.project.base import Annotation, ProjectClass
from qupath_bridge.training_labels import LabelSettings, project_labels

SMALL = CropPlan(cell_m=64, crop_m=256, context_m=4)
Drawn = tuple[str | None, BaseGeometry]


def draw(project: Path, drawn: Sequence[Drawn], entry: int = 1, colors: Any = None) -> None:
    """Write annotations, each a class and a shape, as QuPath exports them."""
    features = []
    for number, (name, shape) in enumerate(drawn, start=1):
        properties: dict[str, Any] = {"objectType": "annotation", "name": f"a{number}"}
        if name:
            properties["classification"] = {"name": name}
            if colors and name in colors:
                properties["classification"]["color"] = colors[name]
        features.append({"type": "Feature", "geometry": mapping(shape), "properties": properties})
    path = project.parent / "pathsegdiff" / str(entry) / "regions.geojson"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


@pytest.fixture
def slides(tmp_path, make_project, write_tiff, drawn_pixels):
    """Return a function that makes a project of so many drawn images, 640 x 512 px."""

    def make(count: int = 1, mpp: float | None = 0.5, folder: str = "p ü") -> Path:
        images = []
        for number in range(count):
            path = tmp_path / f"slide {number}.tif"
            if mpp is None:
                path = path.with_suffix(".png")
                Image.fromarray(drawn_pixels).save(path)
            else:
                write_tiff(path, np.roll(drawn_pixels, number * 50, axis=1), mpp)
            images.append((path, (640, 512), mpp))
        return make_project(tmp_path / folder, images)

    return make


def read(project: Path, mpp: float = 0.5, **options: Any) -> tuple[LabelSet, list[str]]:
    said: list[str] = []
    chosen = LabelSettings(backend="portable", **({"crops": SMALL} | options))
    return project_labels(project, chosen, mpp, said.append), said


def canvas(labels: LabelSet, size: tuple[int, int] = (512, 640)) -> np.ndarray:
    """Return all codes where they lie on the slide, in model pixels."""
    plane = np.full(size, IGNORED, np.uint8)
    for image in labels.images:
        codes = image.read().codes
        x, y = image.origin_m
        part = plane[y : y + codes.shape[0], x : x + codes.shape[1]]
        part[:] = codes[: part.shape[0], : part.shape[1]]
    return plane


def test_annotations_become_codes_and_pixels_in_their_place(slides, drawn_pixels):
    project = slides()
    draw(project, [("Tumor", box(40, 40, 140, 130)), ("Stroma", box(400, 300, 500, 400))])
    labels, said = read(project)
    assert [c.name for c in labels.classes] == ["Tumor", "Stroma"] and said == []
    expected = np.full((512, 640), IGNORED, np.uint8)
    expected[40:130, 40:140], expected[300:400, 400:500] = 0, 1
    assert (canvas(labels) == expected).all()
    for image in labels.images:
        (x, y), pixels = image.origin_m, image.read().pixels
        assert image.name.endswith(f"@ {x},{y}")
        assert (pixels == drawn_pixels[y : y + pixels.shape[0], x : x + pixels.shape[1]]).all()
    assert check_labels(labels).per_class == {"Tumor": 9000, "Stroma": 10000}
    assert "2 annotations in 1 images" in labels.description


def test_everything_is_brought_to_the_models_resolution(slides):
    project = slides(mpp=0.25)
    draw(project, [("Tumor", box(40, 40, 140, 130)), ("Stroma", box(400, 300, 500, 400))])
    labels, _ = read(project, mpp=0.5)
    assert check_labels(labels).per_class == {"Tumor": 50 * 45, "Stroma": 2500}
    assert labels.images[-1].name.endswith("@ 384,256")  # where QuPath shows it
    assert labels.images[-1].origin_m == (192, 128)
    assert labels.images[-1].read().pixels.shape[0] % 64 == 0


def test_holes_brushes_discs_and_strips_are_labelled_as_drawn(slides):
    project = slides()
    holed = box(20, 20, 120, 120) - box(50, 50, 90, 90)
    brush = MultiPolygon([box(200, 20, 220, 40), box(230, 60, 260, 90)])
    points = MultiPoint([(300, 300), (380, 300)])
    line = LineString([(400, 400), (500, 400)])
    draw(project, [("A", holed), ("B", brush), ("C", points), ("D", line), ("C", Point(60, 300))])
    labels, _ = read(project, point_radius_um=5, line_width_um=4)
    counts = check_labels(labels).per_class
    assert counts["A"] == 100 * 100 - 40 * 40 and counts["B"] == 20 * 20 + 30 * 30
    assert counts["C"] == pytest.approx(3 * np.pi * 10**2, rel=0.05)
    assert counts["D"] == pytest.approx(100 * 8 + np.pi * 4**2, rel=0.05)
    assert canvas(labels)[300, 380] == 2


def test_a_disc_is_round_on_the_glass_whatever_the_pixels_are() -> None:
    point = Annotation("id", None, "A", GeometryCollection([Point(100, 100), box(0, 0, 10, 10)]))
    area = as_area(point, Scale(2, 1), Radii(point_m=10, line_m=5)).geometry_l0
    disc = max(area.geoms, key=lambda part: part.area)
    assert disc.bounds == pytest.approx((80, 90, 120, 110))
    assert area.area == pytest.approx(disc.area + 100)


def test_a_smaller_annotation_lies_on_top_in_any_order(slides):
    project = slides()
    large, small = ("Tumor", box(20, 20, 220, 220)), ("Necrosis", box(80, 80, 120, 120))
    for drawn in ([large, small], [small, large]):
        draw(project, drawn)
        labels, _ = read(project)
        names = [c.name for c in labels.classes]
        assert names[canvas(labels)[100, 100]] == "Necrosis"
        assert check_labels(labels).per_class == {"Tumor": 200**2 - 1600, "Necrosis": 1600}


def test_of_equal_annotations_the_later_lies_on_top(slides):
    project = slides()
    draw(project, [("A", box(20, 20, 60, 60)), ("B", box(20, 20, 60, 60)), ("A", Point(200, 200))])
    labels, _ = read(project)
    assert labels.classes[canvas(labels)[40, 40]].name == "B"


def test_what_has_no_class_or_a_starred_one_does_not_train(slides):
    project = slides()
    tumor, stroma = ("Tumor", box(20, 20, 120, 120)), ("Stroma", box(300, 300, 320, 320))
    starred = [(n, box(40, 40, 60, 60)) for n in ("Ignore*", "Region*", "Ignore*: x", None)]
    draw(project, [tumor, *starred, stroma])
    labels, said = read(project)
    assert [c.name for c in labels.classes] == ["Tumor", "Stroma"]
    assert check_labels(labels).per_class == {"Tumor": 100 * 100, "Stroma": 400}
    (warning,) = said
    assert "slide 0.tif: 4 annotations do not train" in warning and '"a2"' in warning


def test_annotations_beyond_the_image_are_clipped_or_left_out_by_name(slides):
    project = slides()
    inside = [("Tumor", box(-50, -50, 50, 50)), ("Stroma", box(600, 500, 700, 600))]
    draw(project, [*inside, ("Stroma", box(900, 900, 990, 990))])
    labels, said = read(project, crops=CropPlan(96, 288, 4))
    assert check_labels(labels).per_class == {"Tumor": 2500, "Stroma": 40 * 12}
    assert any('"a3" was left out: it lies outside of the image' in text for text in said)
    assert sum("was clipped" in text for text in said) == 2
    corner = labels.images[-1].read()
    assert (corner.pixels[-1] == 255).all() and (corner.codes[-1] == IGNORED).all()


@pytest.mark.parametrize(
    "drawn",
    [[], [("Tumor", box(900, 900, 990, 990))], [("Ignore*", box(9, 9, 50, 50))]],
    ids=["none", "outside", "ignored"],
)
def test_nothing_to_learn_from_is_said(slides, drawn):
    project = slides()
    draw(project, drawn)
    with pytest.raises(RegionError, match="no annotation to learn from; draw some in QuPath"):
        read(project)


def test_a_shape_that_crosses_itself_is_repaired(slides):
    project = slides()
    bow_tie = Polygon([(20, 20), (80, 80), (20, 80), (80, 20)])
    draw(project, [("A", bow_tie), ("B", box(300, 300, 330, 330))])
    labels, said = read(project)
    assert check_labels(labels).per_class["A"] == pytest.approx(1800, rel=0.05)
    assert any("was repaired" in text for text in said)


# --- classes ---------------------------------------------------------------------------------


def test_a_colour_is_the_projects_else_the_annotations_else_qupaths_else_ours(slides):
    project = slides()
    listed = [ProjectClass("B", (1, 2, 3)), ProjectClass("Unused", (4, 5, 6))]
    (project.parent / "classifiers").mkdir()
    write_json(project.parent / "classifiers" / "classes.json", classes_json(listed))
    names = ["A", "Tumor", "Background", "B", "C"]
    drawn = [(n, box(20 + 60 * i, 20, 50 + 60 * i, 50)) for i, n in enumerate(names)]
    draw(project, drawn, colors={"A": [9, 9, 9], "B": [8, 8, 8], "Background": [7, 7, 7]})
    labels, _ = read(project)
    classes = {c.name: c for c in labels.classes}
    assert next(iter(classes)) == "B" and set(classes) == set(names)
    assert (classes["B"].color, classes["A"].color) == ((1, 2, 3), (9, 9, 9))
    assert classes["Tumor"].color == (200, 0, 0)
    assert len({c.color for c in classes.values()}) == 5
    assert [c.name for c in labels.classes if not c.detections] == ["Background"]


def test_two_projects_whose_classes_differ_in_colour_are_refused(slides):
    sets = []
    for folder, color in (("one", [1, 1, 1]), ("two", [2, 2, 2])):
        project = slides(folder=folder)
        draw(project, [("Tumor", box(20, 20, 60, 60))], colors={"Tumor": color})
        sets.append(read(project)[0])
    with pytest.raises(ModelError, match=r"in project one .* in project two .* same colour"):
        merge(sets)


@pytest.mark.parametrize(("name", "taken"), [("T", True), ("A: B", True), ("A:B", False)])
def test_names_of_classes_are_taken_or_refused_as_qupath_would(slides, name, taken):
    project = slides()
    draw(project, [(name, box(20, 20, 60, 60)), ("Stroma", box(300, 300, 330, 330))])
    labels, _ = read(project)
    if taken:
        assert check_labels(labels).per_class[name] == 1600
    else:
        with pytest.raises(ModelError, match='cannot be named "A:B"'):
            check_labels(labels)


def test_one_class_only_is_refused_when_checked(slides):
    project = slides()
    draw(project, [("Tumor", box(20, 20, 60, 60))])
    with pytest.raises(ModelError, match="only one, Tumor"):
        check_labels(read(project)[0])


# --- groups ----------------------------------------------------------------------------------


def shape_of(image):
    height, width = image.read().codes.shape
    x, y = image.origin_m
    return box(x, y, x + width, y + height)


def test_slides_are_groups_where_several_have_labels(slides):
    project = slides(3)
    drawn = [("Tumor", box(20, 20, 60, 60)), ("Stroma", box(400, 300, 440, 340))]
    draw(project, drawn, entry=1)
    draw(project, drawn, entry=3)
    labels, _ = read(project)
    assert {i.group for i in labels.images} == {"slide 0.tif", "slide 2.tif"}
    assert len({i.name for i in labels.images}) == len(labels.images) == 4
    train, validation = split(labels.images, 0.2, 0, check_labels(labels))
    assert split_by(train, validation) == "group"


def test_clusters_are_groups_on_one_slide_and_share_no_pixel(slides):
    project = slides(2)
    rng = np.random.default_rng(3)
    corners = rng.integers(0, 440, (10, 2))
    drawn = [
        ("Tumor" if n % 2 else "Stroma", box(x, y, x + 20 + 4 * n, y + 30))
        for n, (x, y) in enumerate(corners.tolist())
    ]
    draw(project, [*drawn, ("Tumor", box(100, 440, 620, 445))])
    labels, _ = read(project)
    assert len({i.group for i in labels.images}) > 1
    for one, other in combinations(labels.images, 2):
        assert shape_of(one).intersection(shape_of(other)).area == 0
    long = [i for i in labels.images if shape_of(i).intersects(box(100, 440, 620, 445))]
    assert len(long) > 1 and len({i.group for i in long}) == 1


def test_a_slide_in_the_project_twice_is_read_once(slides, make_project, tmp_path):
    path = slides().parent.parent / "slide 0.tif"
    twice = make_project(tmp_path / "twice", [(path, (640, 512), 0.5)] * 2)
    for entry in (1, 2):
        draw(twice, [("A", box(20, 20, 60, 60)), ("B", box(400, 300, 440, 340))], entry)
    labels, _ = read(twice)
    assert len(labels.images) == len({i.group for i in labels.images}) == 2


def test_a_large_annotation_is_cut_and_never_read_whole(slides):
    project = slides()
    draw(project, [("Tumor", box(0, 0, 640, 512)), ("Stroma", box(300, 300, 330, 330))])
    labels, _ = read(project)
    assert len(labels.images) == 6
    assert max(max(i.read().codes.shape) for i in labels.images) <= 256
    assert (canvas(labels) != IGNORED).all()
    few, said = read(project, crops=CropPlan(64, 64, 4, most=5))
    assert 5 <= len(few.images) <= 10 and any("crops train" in text for text in said)
    assert check_labels(few).per_class["Stroma"] > 0


def test_crops_can_be_read_by_another_process(slides):
    project = slides()
    draw(project, [("Tumor", box(20, 20, 60, 60))])
    (image,) = read(project)[0].images
    again = pickle.loads(pickle.dumps(image)).read()
    assert (again.pixels == image.read().pixels).all()


# --- what goes wrong -------------------------------------------------------------------------


def test_a_missing_slide_is_an_error_only_if_it_has_labels(slides, tmp_path):
    project = slides(2)
    draw(project, [("Tumor", box(20, 20, 60, 60))], entry=1)
    (tmp_path / "slide 1.tif").unlink()
    assert read(project)[0].images
    draw(project, [("Tumor", box(20, 20, 60, 60))], entry=2)
    with pytest.raises(SlideError, match=r"slide 1\.tif is not there"):
        read(project)


def test_a_pixel_size_is_asked_for_and_can_be_given(slides):
    project = slides(mpp=None)
    draw(project, [("Tumor", box(20, 20, 60, 60))])
    with pytest.raises(PixelSizeError, match="has no pixel size"):
        read(project)
    chosen = LabelSettings(backend="portable", mpp=0.25, crops=SMALL)
    (image,) = project_labels(project, chosen, 0.5, print).images
    assert (image.read().codes == 0).sum() == 20 * 20


@pytest.mark.parametrize("name", ["point_radius_um", "line_width_um"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), 1e9])
def test_sizes_that_cannot_be_meant_are_refused(name, value):
    with pytest.raises(SettingsError, match=name):
        LabelSettings(**{name: value})


def test_annotations_on_a_real_slide_are_cut_from_it(shared_data, make_project, tmp_path):
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    project = make_project(tmp_path / "real", [(path, (2220, 2967), 0.499)])
    rng = np.random.default_rng(1)
    drawn = [
        ("Tumor" if n % 2 else "Stroma", Point(*rng.integers(100, 2100, 2).tolist()).buffer(80))
        for n in range(10)
    ]
    draw(project, drawn)
    labels, said = read(project, crops=CropPlan())
    counts = check_labels(labels)
    assert said == [] and sum(counts.per_class.values()) > 100_000
    train, validation = split(labels.images, 0.2, 0, counts)
    assert train and validation
