"""The demo project: what is written, where its annotations lie, and what is never overwritten."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rasterio.features import rasterize
from shapely.geometry import box

from qupath_bridge.demo.drawing import TISSUE_CLASSES
from qupath_bridge.demo.placing import place_regions
from qupath_bridge.demo.project import DemoProject, make_demo_project, read_truth
from qupath_bridge.demo.qpproj import packed_color
from qupath_bridge.errors import ProjectError
from qupath_bridge.geometry import Mpp
from qupath_bridge.project import open_project

SIDE = 1024


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoProject:
    folder = tmp_path_factory.mktemp("demos") / "Ein Ordner mit Ümlaut 🧬 100%"
    return make_demo_project(folder, 7, side_px=SIDE)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_portable_face_reads_the_project(demo: DemoProject) -> None:
    project = open_project(demo.folder, "portable")
    (image,) = project.images()
    assert (image.entry_id, image.name) == (demo.entry_id, "demo.tif")
    assert image.path == demo.slide and image.path.exists()
    assert image.mpp == Mpp(0.5, 0.5) and image.size_l0 == (SIDE, SIDE)
    assert image.unsupported is None
    annotations = project.read_annotations(image)
    assert [a.name for a in annotations] == ["Demo region A", "Demo region B"]
    assert {a.class_name for a in annotations} == {"Region*"}


@pytest.mark.qupath
def test_the_real_qupath_opens_the_project_written_by_hand(tmp_path: Path) -> None:
    if not os.environ.get("PAQUO_QUPATH_DIR"):
        pytest.skip("needs QuPath; set PAQUO_QUPATH_DIR to its folder")
    demo = make_demo_project(tmp_path / "Ümlaut 🧬", 7, side_px=512)
    project = open_project(demo.project_file, "paquo")
    try:
        (image,) = project.images()
        assert image.path == demo.slide and image.mpp == Mpp(0.5, 0.5)
        assert image.size_l0 == (512, 512) and image.unsupported is None
    finally:
        project.close()


def test_the_truth_keeps_its_codes_and_says_what_they_mean(demo: DemoProject) -> None:
    tissue, glands = read_truth(demo.truth("tissue")), read_truth(demo.truth("glands"))
    assert tissue.shape == glands.shape == (SIDE, SIDE)
    assert np.array_equal(glands == 1, tissue == 5)
    legend = read_json(demo.truth_legend)
    assert [entry["name"] for entry in legend["tissue"]] == list(TISSUE_CLASSES)
    assert legend["seed"] == 7
    with Image.open(demo.truth("tissue")) as image:
        assert image.mode == "P"
        palette = image.convert("RGB").getpixel((0, 0))
    assert palette == tuple(legend["tissue"][tissue[0, 0]]["color"])


def test_classes_have_packed_colours_as_qupath_demands(demo: DemoProject) -> None:
    classes = read_json(demo.folder / "classifiers" / "classes.json")["pathClasses"]
    colors = {entry["name"]: entry["color"] for entry in classes}
    assert colors["Tumor"] == -3670016  # as QuPath itself packs (200, 0, 0)
    assert all(isinstance(color, int) for color in colors.values())
    assert {*TISSUE_CLASSES[1:], "Gland", "Region*"} == set(colors)
    assert packed_color((255, 0, 0)) == -65536


def test_annotations_are_geojson_as_qupath_exports_it(demo: DemoProject) -> None:
    collection = read_json(demo.regions)
    assert collection["type"] == "FeatureCollection"
    for feature in collection["features"]:
        assert feature["type"] == "Feature" and len(feature["id"]) == 36
        assert feature["geometry"]["type"] == "Polygon"
        assert feature["properties"]["objectType"] == "annotation"
        assert feature["properties"]["classification"]["color"] == [0, 0, 180]


def test_annotations_are_valid_apart_inside_and_one_has_a_hole(demo: DemoProject) -> None:
    first, second = place_regions(7, read_truth(demo.truth("tissue")))
    assert first.outline_l0.is_valid and second.outline_l0.is_valid
    assert not first.outline_l0.intersects(second.outline_l0)
    image = box(0, 0, SIDE, SIDE)
    assert image.contains(first.outline_l0) and image.contains(second.outline_l0)
    assert len(second.outline_l0.interiors) == 1


def test_annotations_go_where_the_rare_classes_are() -> None:
    tissue = np.full((4096, 4096), 2, dtype=np.uint8)
    tissue[:, :600] = 0
    tissue[900:1100, 900:1300], tissue[1500:1700, 1200:1400] = 1, 3
    tissue[2900:3200, 3000:3200], tissue[2500:2700, 2700:3000] = 4, 5
    regions = place_regions(3, tissue)
    shapes = [(region.outline_l0, 1) for region in regions]
    inside = rasterize(shapes, out_shape=tissue.shape, dtype="uint8") == 1
    shown = np.bincount(tissue[inside], minlength=6)[1:]
    assert (shown == np.bincount(tissue.ravel(), minlength=6)[1:])[[0, 2, 3, 4]].all()
    for region in regions:
        x0, y0, x1, y1 = region.outline_l0.bounds
        assert 1450 < x1 - x0 < 1800 and 1450 < y1 - y0 < 1800


def test_an_earlier_demo_is_replaced_and_what_a_stranger_put_there_stays(tmp_path: Path) -> None:
    make_demo_project(tmp_path, 1, side_px=256)
    (tmp_path / "pathsegdiff" / "run.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    again = make_demo_project(tmp_path, 2, side_px=256)
    assert read_json(again.truth_legend)["seed"] == 2
    assert not (tmp_path / "pathsegdiff" / "run.json").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_demo_cut_short_is_known_as_one(tmp_path: Path) -> None:
    demo = make_demo_project(tmp_path, 1, side_px=256)
    demo.project_file.unlink()
    demo.slide.unlink()
    assert make_demo_project(tmp_path, 1, side_px=256).slide.exists()


def test_a_folder_with_something_else_in_it_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "demo.qpproj").write_text("{}")
    (tmp_path / "slides").mkdir()
    with pytest.raises(ProjectError, match="not a demo project"):
        make_demo_project(tmp_path, 1, side_px=256)
    assert {path.name for path in tmp_path.iterdir()} == {"demo.qpproj", "slides"}


def test_a_demo_that_was_given_other_images_is_refused_untouched(tmp_path: Path) -> None:
    demo = make_demo_project(tmp_path, 1, side_px=256)
    project = read_json(demo.project_file)
    project["images"].append({**project["images"][0], "entryID": 2})
    demo.project_file.write_text(json.dumps(project))
    before = demo.slide.read_bytes()
    with pytest.raises(ProjectError, match="other images"):
        make_demo_project(tmp_path, 2, side_px=256)
    assert demo.slide.read_bytes() == before


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("")
    with pytest.raises(ProjectError, match="is a file"):
        make_demo_project(tmp_path / "demo", 1, side_px=256)
