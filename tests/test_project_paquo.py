"""A project reached through the real QuPath: read like without it, written without harm."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon, box

from qupath_bridge.detections import Detection, detection_id, is_ours, replaced_by
from qupath_bridge.engine.spool import ObjectSpool
from qupath_bridge.errors import ImageDataError, ProjectError, SlideError
from qupath_bridge.project import (
    ImageWrite,
    Project,
    ProjectClass,
    ProjectImage,
    find_qupath,
    open_project,
)
from qupath_bridge.project.hierarchy import CHUNK

pytestmark = [
    pytest.mark.qupath,
    pytest.mark.skipif(
        not os.environ.get("PAQUO_QUPATH_DIR"), reason="no QuPath: PAQUO_QUPATH_DIR is not set"
    ),
]

MakeProject = Callable[..., Path]
HOLED = (
    "MULTIPOLYGON (((500 10, 600 10, 600 90, 500 90, 500 10), (520 20, 520 40, 540 40, 520 20)),"
    " ((650 10, 700 10, 700 60, 650 10)))"
)
BOW_TIE = [(500, 200), (560, 260), (500, 260), (560, 200)]
# QuPath has one colour per class and process: "Gland" is the shipped model's in other tests.
COLORS = {"Tumor": (200, 0, 0), "Glandular": (10, 20, 30)}

DUMP = """
import json, sys
from pathlib import Path
from qupath_bridge.project import find_qupath
from qupath_bridge.project.jvm import start_java
start_java(find_qupath())
from paquo.projects import QuPathProject
from paquo.java import GsonTools

def dump_object(item, parent):
    feature = json.loads(str(GsonTools.getInstance().toJson(item)))
    feature["properties"].pop("childObjects", None)
    feature["parent"] = parent
    # Where QuPath mends a shape that crosses itself, each process may begin its rings elsewhere.
    feature.pop("geometry", None)
    feature["wkt"] = str(item.getROI().getGeometry().norm().toText()) if item.hasROI() else None
    feature["points"] = [(p.getX(), p.getY()) for p in item.getROI().getAllPoints()] \
        if item.hasROI() else []
    feature["locked"] = bool(item.isLocked())
    feature["kind"] = str(item.getClass().getSimpleName())
    yield feature
    for child in item.getChildObjects():
        yield from dump_object(child, str(item.getID()) if parent else "root")

project = QuPathProject(Path(sys.argv[1]), mode="r")
images = []
for entry in project.images:
    data = entry.java_object.readImageData()
    tma = data.getHierarchy().getTMAGrid()
    images.append({
        "id": entry.entry_id, "name": entry.image_name, "about": entry.description,
        "metadata": dict(entry.metadata), "type": str(data.getImageType()),
        "properties": {str(k): str(v) for k, v in dict(data.getProperties()).items()
                       if str(k) != "PROJECT_ENTRY_ID"},  # the project's path
        "steps": int(data.getHistoryWorkflow().size()),
        "stains": str(data.getColorDeconvolutionStains()),
        "server": str(GsonTools.getInstance().toJson(data.getServer().getMetadata())),
        "cores": 0 if tma is None else int(tma.nCores()),
        "objects": list(dump_object(data.getHierarchy().getRootObject(), None)),
    })
classes = [(c.name, c.color.to_rgb() if c.color else None) for c in project.path_classes]
print(json.dumps({"images": images, "classes": classes, "version": project.version}))
"""

SAVE = """
import sys
from pathlib import Path
from qupath_bridge.project import find_qupath
from qupath_bridge.project.jvm import start_java
start_java(find_qupath())
from paquo.projects import QuPathProject
with QuPathProject(Path(sys.argv[1]), mode="r+") as project:
    for entry in project.images:
        entry._image_data.setChanged(True)
        entry.save()
"""


def run_python(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def seen_by_qupath(path: Path) -> dict[str, Any]:
    """Return all that QuPath knows of a project, read in a process of its own."""
    content: dict[str, Any] = json.loads(run_python(DUMP, path))
    return content


@pytest.fixture(scope="session")
def java() -> Callable[[str], Any]:
    """Return a function that gives QuPath's Java classes by name."""
    from qupath_bridge.project.jvm import java_class, start_java

    qupath = find_qupath()
    assert qupath is not None
    start_java(qupath)
    return java_class


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small tiled TIFF of 0.5 um pixels, which OpenSlide opens."""
    path = tmp_path_factory.mktemp("slides") / "slide ü.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (512, 768, 3), dtype=np.uint8)
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


@pytest.fixture(scope="session")
def template(java: Any, slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a project that has something of everything, made by paquo."""
    from paquo.classes import QuPathPathClass
    from paquo.images import QuPathImageType
    from paquo.projects import QuPathProject

    folder = tmp_path_factory.mktemp("template") / "here"
    (folder / "slides").mkdir(parents=True)
    image = shutil.copy(slide, folder / "slides" / slide.name)
    with QuPathProject(folder / "project" / "project.qpproj", mode="x") as project:
        classes = [QuPathPathClass("Own class"), QuPathPathClass("Tumor")]
        for known, color in zip(classes, [(1, 2, 3), (7, 8, 9)], strict=True):
            known.java_object.setColor(*color)  # a class that exists ignores the constructor's
        project.path_classes = classes
        entry = project.add_image(image, image_type=QuPathImageType.BRIGHTFIELD_H_E)
        entry.image_name, entry.description = "Größe 😀", "as it came"
        entry.metadata["block"] = "B7"
        _fill(java, entry._image_data.getHierarchy())
        entry._image_data.setChanged(True)
    return folder


def _fill(java: Any, hierarchy: Any) -> None:
    rois, make = java("qupath.lib.roi.ROIs"), java("qupath.lib.objects.PathObjects")
    path_class = java("qupath.lib.objects.classes.PathClass").fromString
    plane = java("qupath.lib.regions.ImagePlane").getDefaultPlane()
    shapes = java("qupath.lib.roi.GeometryTools")
    wkt = java("org.locationtech.jts.io.WKTReader")(shapes.getDefaultFactory())

    def annotation(roi: Any, name: str | None, of_class: str | None) -> Any:
        item = make.createAnnotationObject(roi, of_class and path_class(of_class))
        item.setName(name)
        return item

    outer = annotation(rois.createRectangleROI(10, 10, 400, 300, plane), "outer", "Region*")
    outer.setLocked(True)
    outer.getMeasurementList().put("Own: value", 4.5)
    outer.getMeasurementList().put("PathSegDiff: Old class %", 12.0)
    inner = annotation(rois.createEllipseROI(50, 50, 90, 60, plane), None, "Tumor: Positive")
    cell_roi = rois.createRectangleROI(60, 60, 10, 10, plane)
    nucleus = rois.createRectangleROI(62, 62, 5, 5, plane)
    cell = make.createCellObject(cell_roi, nucleus, path_class("Tumor"))
    cell.getMeasurementList().put("Own: nothing", float("nan"))
    inner.addChildObject(cell)
    outer.addChildObject(inner)
    holed = wkt.read(HOLED)
    corners = [java("qupath.lib.geom.Point2")(x, y) for x, y in BOW_TIE]
    bow_tie = java("java.util.ArrayList")(corners)
    everything = [
        outer,
        annotation(shapes.geometryToROI(holed, plane), "holed", "Own class"),
        annotation(rois.createPolygonROI(bow_tie, plane), "bow tie", None),
        annotation(rois.createPointsROI(5.0, 6.0, plane), "point", None),
        annotation(rois.createLineROI(1, 2, 30, 40, plane), "line", None),
        make.createDetectionObject(rois.createRectangleROI(20, 20, 5, 5, plane), path_class("X")),
        make.createTileObject(rois.createRectangleROI(700, 300, 8, 8, plane)),
    ]
    hierarchy.getRootObject().addChildObjects(java("java.util.ArrayList")(everything))
    cores = [make.createTMACoreObject(300.0 + 60 * i, 400.0, 40.0, i == 1) for i in range(2)]
    grid = java("qupath.lib.objects.hierarchy.DefaultTMAGrid")
    hierarchy.setTMAGrid(grid.create(java("java.util.ArrayList")(cores), 2))


@pytest.fixture
def make_project(template: Path, tmp_path: Path) -> MakeProject:
    """Return a function that gives a project of its own, moved since it was made."""

    def make(name: str = "moved ü 😀") -> Path:
        shutil.copytree(template, tmp_path / name)
        return tmp_path / name / "project" / "project.qpproj"

    return make


@pytest.fixture
def path(make_project: MakeProject) -> Path:
    return make_project()


def opened(path: Path) -> tuple[Project, ProjectImage]:
    project = open_project(path, "paquo")
    (image,) = project.images()
    return project, image


def region_ids(project: Project, image: ProjectImage) -> dict[str | None, str]:
    return {a.name: a.id for a in project.read_annotations(image)}


def detection(number: int, region_id: str, head: str = "tissue", holed: bool = False) -> Detection:
    x, y = 20 + 12 * (number % 20), 20 + 12 * (number // 20)
    outline = box(x, y, x + 10, y + 10.25)
    if holed:
        outline = Polygon(outline.exterior, [box(x + 2, y + 2, x + 5, y + 4).exterior])
    return Detection(
        id=detection_id(head, region_id, f"{number} {holed}".encode()),
        head=head,
        region_id=region_id,
        class_name="Tumor" if number % 2 else "Glandular",
        color=COLORS["Tumor" if number % 2 else "Glandular"],
        outline_l0=outline,
        area_um2=outline.area / 4,
        mean_probability=0.75,
        mean_entropy=0.25,
    )


def changes_of(regions: Sequence[str], count: int = 8, head: str = "tissue") -> ImageWrite:
    detections = [
        detection(number, region, head, number % 3 == 0)
        for region in regions
        for number in range(count)
    ]
    return ImageWrite(
        heads=[head],
        region_ids=list(regions),
        detections=detections,
        measurements={r: {"PathSegDiff: Tumor area µm^2": 8.0} for r in regions if r != "tissue"},
        classes=[ProjectClass(name, color) for name, color in COLORS.items()],
    )


def foreign(seen: dict[str, Any]) -> dict[str, Any]:
    """Return what QuPath knows of a project beside what is ours."""
    images = []
    for image in seen["images"]:
        kept = [item for item in image["objects"] if not is_ours(item["id"])]
        for item in kept:
            measured = item["properties"].get("measurements", {})
            ours = [name for name in measured if name.startswith("PathSegDiff: ")]
            for name in ours:
                del measured[name]
            if not measured:
                item["properties"].pop("measurements", None)
        images.append({**image, "objects": kept})
    return {"images": images, "version": seen["version"], "classes": seen["classes"][:2]}


def without_steps(seen: dict[str, Any]) -> dict[str, Any]:
    return {**seen, "images": [{**image, "steps": None} for image in seen["images"]]}


def ours(seen: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        item["id"]: item
        for image in seen["images"]
        for item in image["objects"]
        if is_ours(item["id"])
    }


@dataclass(frozen=True)
class Written:
    """A project into which one run was written, and what QuPath saw before and after."""

    path: Path
    changes: ImageWrite
    before: dict[str, Any]
    after: dict[str, Any]


@pytest.fixture(scope="session")
def written(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("written ü") / "project of 1"
    shutil.copytree(template, folder)
    path = folder / "project" / "project.qpproj"
    before, project_file = seen_by_qupath(path), path.read_bytes()
    project, image = opened(path)
    ids = region_ids(project, image)
    changes = changes_of([str(ids["outer"]), str(ids["holed"]), "tissue"])
    project.write(image, changes)
    assert project.detection_ids(image) == {d.id for d in changes.detections}
    assert path.read_bytes() == project_file
    return Written(path, changes, before, seen_by_qupath(path))


def files_in(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_reason_names_the_qupath(path: Path, java: Any) -> None:
    project, _ = opened(path)
    assert project.backend == "paquo"
    assert project.reason.startswith("paquo: QuPath 0.")
    assert str(os.environ["PAQUO_QUPATH_DIR"]) in project.reason


def test_both_faces_see_the_same_images(path: Path, java: Any) -> None:
    through_qupath, without = open_project(path, "paquo"), open_project(path, "portable")
    assert through_qupath.images() == without.images()
    (image,) = without.images()
    assert image.path.is_relative_to(path.parents[1])
    assert image.mpp == pytest.approx((0.5, 0.5))
    assert (image.name, image.size_l0, image.unsupported) == ("Größe 😀", (768, 512), None)


def test_both_faces_see_the_same_annotations(path: Path, java: Any) -> None:
    project, image = opened(path)
    file = path.parent / "pathsegdiff" / image.entry_id / "regions.geojson"
    file.parent.mkdir(parents=True)
    hierarchy = project._project.images[0].java_object.readHierarchy()  # type: ignore[attr-defined]
    path_io = java("qupath.lib.io.PathIO")
    options = java("qupath.lib.io.PathIO$GeoJsonExportOptions")
    path_io.exportObjectsAsGeoJSON(
        java("java.io.File")(str(file)),
        hierarchy.getFlattenedObjectList(None),
        options.FEATURE_COLLECTION,
        options.PRETTY_JSON,
    )
    through_qupath = {a.id: a for a in project.read_annotations(image)}
    without = {a.id: a for a in open_project(path, "portable").read_annotations(image)}
    assert without == through_qupath
    kinds = {a.name: a.geometry_l0.geom_type for a in without.values()}
    assert kinds == {
        "outer": "Polygon", None: "Polygon", "holed": "MultiPolygon",
        "bow tie": "MultiPolygon", "point": "Point", "line": "LineString",
    }  # fmt: skip
    classes = {a.name: a.class_name for a in without.values()}
    assert classes["outer"] == "Region*"
    assert classes[None] == "Tumor: Positive"


def test_detections_arrive_under_their_annotations_whole(written: Written) -> None:
    found = ours(written.after)
    assert set(found) == {d.id for d in written.changes.detections}
    for made in written.changes.detections:
        item = found[made.id]
        assert item["parent"] == ("root" if made.region_id == "tissue" else made.region_id)
        assert item["kind"] == "PathDetectionObject"
        assert item["properties"]["name"] == "tissue"
        assert item["properties"]["classification"]["name"] == made.class_name
        assert item["properties"]["measurements"] == pytest.approx(
            {"Area µm^2": made.area_um2, "Mean probability": 0.75, "Mean entropy": 0.25}
        )
        shape = shapely.from_wkt(item["wkt"])
        assert shape.equals(made.outline_l0)
        assert len(shape.interiors) == len(made.outline_l0.interiors)


def test_classes_are_added_at_the_end_and_keep_their_colours(written: Written) -> None:
    before = written.before["classes"]
    assert before == [["Own class", [1, 2, 3]], ["Tumor", [7, 8, 9]]]
    assert written.after["classes"] == [*before, ["Glandular", list(COLORS["Glandular"])]]


def test_the_measurements_of_an_annotation_are_ours_to_replace_alone(written: Written) -> None:
    (image,) = written.after["images"]
    items = {item["properties"].get("name"): item for item in image["objects"]}
    assert items["outer"]["properties"]["measurements"] == {
        "Own: value": 4.5,
        "PathSegDiff: Tumor area µm^2": 8.0,
    }
    assert items["outer"]["locked"]


def test_a_run_touches_nothing_else(written: Written) -> None:
    assert foreign(written.after) == foreign(written.before)


def test_a_run_writes_the_data_its_summary_and_the_classes_alone(path: Path, java: Any) -> None:
    before = files_in(path.parent)
    project, image = opened(path)
    project.write(image, changes_of(["tissue"]))
    after = files_in(path.parent)
    changed = {p.name for p in after if after[p] != before.get(p)}
    assert changed == {
        "data.qpdata", "data.qpdata.before-pathsegdiff", "summary.json", "classes.json"
    }  # fmt: skip
    assert before.keys() <= after.keys()


def test_a_repetition_after_qupath_saved_leaves_the_same(written: Written, tmp_path: Path) -> None:
    shutil.copytree(written.path.parents[1], tmp_path / "again")
    path = tmp_path / "again" / "project" / "project.qpproj"
    run_python(SAVE, path)
    saved, project_file = seen_by_qupath(path), path.read_bytes()
    project, image = opened(path)
    project.write(image, written.changes)
    again = seen_by_qupath(path)
    assert path.read_bytes() == project_file
    assert foreign(again) == foreign(saved)
    # QuPath 0.6 and later lengthen the history themselves whenever they save what they read.
    assert without_steps(foreign(again)) == without_steps(foreign(written.before))
    assert ours(again) == ours(written.after)
    assert again["classes"] == written.after["classes"]


def test_a_run_replaces_its_own_heads_and_regions_and_those_that_are_gone(
    path: Path, java: Any
) -> None:
    project, image = opened(path)
    ids = region_ids(project, image)
    for head in ("tissue", "glands"):
        project.write(image, changes_of([ids["outer"], ids["holed"], "tissue"], 4, head))
    gone = detection(9, "00000000-0000-4000-8000-000000000000")
    project.write(image, replace(changes_of([]), detections=[gone]))
    assert len(project.detection_ids(image) or ()) == 25
    project.write(image, ImageWrite(["tissue"], [ids["outer"]], []))
    kept = {d.id for d in changes_of([ids["holed"], "tissue"], 4).detections}
    for region in (ids["outer"], ids["holed"], "tissue"):
        kept |= {d.id for d in changes_of([region], 4, "glands").detections}
    assert project.detection_ids(image) == kept


OBJECTS = st.lists(
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["annotation", "annotation", "detection", "tile"]),
            "parent": st.integers(0, 9),
            "name": st.none() | st.text(st.characters(codec="utf-8"), max_size=5),
            "class": st.none() | st.sampled_from(["Tumor", "Glandular", "Tumor: Positive", "Own"]),
            "locked": st.booleans(),
            "measured": st.dictionaries(st.sampled_from("abc"), st.floats(width=32), max_size=2),
        }
    ),
    min_size=1,
    max_size=9,
)
RUNS = st.lists(
    st.tuples(st.sampled_from(["tissue", "glands"]), st.sets(st.integers(0, 9), max_size=3)),
    min_size=1,
    max_size=3,
)


def _facts(java: Any, hierarchy: Any) -> list[Any]:
    """Return what there is to know of the objects that are not ours, in QuPath's order."""
    gson = java("qupath.lib.io.GsonTools").getInstance()
    return [
        (json.loads(str(gson.toJson(item))), str(item.getParent().getID()))
        for item in hierarchy.getFlattenedObjectList(None)
        if not item.isRootObject() and not is_ours(str(item.getID()))
    ]


def _grow(java: Any, hierarchy: Any, specs: Sequence[dict[str, Any]]) -> None:
    """Fill a hierarchy with objects as described, some nested in others."""
    rois, make = java("qupath.lib.roi.ROIs"), java("qupath.lib.objects.PathObjects")
    plane = java("qupath.lib.regions.ImagePlane").getDefaultPlane()
    path_class = java("qupath.lib.objects.classes.PathClass").fromString
    hierarchy.clearAll()
    items = [hierarchy.getRootObject()]
    for number, spec in enumerate(specs):
        roi = rois.createRectangleROI(number, number, 20, 10 + number, plane)
        item = getattr(make, f"create{spec['kind'].title()}Object")(roi)
        item.setName(spec["name"])
        item.setLocked(spec["locked"])
        if spec["class"]:
            item.setPathClass(path_class(spec["class"]))
        for name, value in spec["measured"].items():
            item.getMeasurementList().put(name, value)
        items[spec["parent"] % len(items)].addChildObject(item)
        items.append(item)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(OBJECTS, RUNS)
def test_whatever_is_in_an_image_runs_change_nothing_of_it(
    java: Any,
    template: Path,
    specs: list[dict[str, Any]],
    runs: list[tuple[str, set[int]]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(template, folder, dirs_exist_ok=True)
        project, image = opened(Path(folder) / "project")
        entry = project._project.images[0].java_object  # type: ignore[attr-defined]
        data = entry.readImageData()
        _grow(java, data.getHierarchy(), specs)
        before = _facts(java, data.getHierarchy())
        entry.saveImageData(data)
        data.getServer().close()
        ids = [*(a.id for a in project.read_annotations(image)), "tissue", "slide"]
        expected: set[str] = set()
        for head, picks in runs:
            changes = replace(
                changes_of(sorted({ids[pick % len(ids)] for pick in picks}), 3, head),
                measurements={},
            )
            project.write(image, changes)
            goes = replaced_by([head], changes.region_ids, ids)
            expected = {i for i in expected if not goes(i)} | {d.id for d in changes.detections}
            assert project.detection_ids(image) == expected
            assert _facts(java, entry.readHierarchy()) == before


def test_what_was_nested_in_our_detections_stays(path: Path, java: Any) -> None:
    from qupath_bridge.project import hierarchy as objects

    hierarchy = java("qupath.lib.objects.hierarchy.PathObjectHierarchy")()
    objects.add_detections(hierarchy, {}, [detection(n, "slide") for n in range(3)])
    top, middle, _ = list(hierarchy.getDetectionObjects())
    plane = java("qupath.lib.regions.ImagePlane").getDefaultPlane()
    roi = java("qupath.lib.roi.ROIs").createRectangleROI(1, 1, 2, 2, plane)
    guest = java("qupath.lib.objects.PathObjects").createAnnotationObject(roi)
    middle.addChildObject(guest)
    top.addChildObject(middle)
    objects.remove_detections(hierarchy, is_ours)
    assert list(hierarchy.getRootObject().getChildObjects()) == [guest]
    assert guest.getParent() == hierarchy.getRootObject()


def test_an_image_that_was_never_opened_is_written_too(path: Path, java: Any) -> None:
    data = path.parent / "data" / "1"
    shutil.rmtree(data)
    project, image = opened(path)
    assert project.read_annotations(image) == []
    assert project.detection_ids(image) == set()
    project.write(image, changes_of(["tissue"]))
    assert len(ours(seen_by_qupath(path))) == 8
    assert not (data / "data.qpdata.before-pathsegdiff").exists()


def test_the_data_is_backed_up_once_per_run(path: Path, java: Any) -> None:
    data = path.parent / "data" / "1" / "data.qpdata"
    backup = data.with_name("data.qpdata.before-pathsegdiff")
    original = data.read_bytes()
    project, image = opened(path)
    project.write(image, changes_of(["tissue"]))
    project.write(image, changes_of(["slide"]))
    assert backup.read_bytes() == original
    first_run = data.read_bytes()
    project, image = opened(path)
    project.write(image, changes_of(["tissue"], 3))
    assert backup.read_bytes() == first_run
    summary = json.loads(data.with_name("summary.json").read_text(encoding="utf-8"))
    assert summary["hierarchy"]["objectTypeCounts"]["Detections"] == 1 + 3 + 8
    assert not [p for p in data.parent.iterdir() if p.name.endswith(".tmp")]


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda raw: None,
    "empty": lambda raw: b"",
    "cut at 3 bytes": lambda raw: raw[:3],
    "cut at 200 bytes": lambda raw: raw[:200],
    "cut at 75 %": lambda raw: raw[: len(raw) * 3 // 4],
    "cut before the end mark": lambda raw: raw[:-6],
    "garbage": lambda raw: b"not QuPath's at all" * 50,
    "garbage after Java's mark": lambda raw: raw[:4] + b"\x77\xff" + b"7" * 500,
    "an empty stream": lambda raw: raw[:4],
    "overwritten in the middle": lambda raw: raw[:3000] + b"\xff" * 100 + raw[3100:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_data_is_refused_and_left_as_it_is(path: Path, java: Any, damage: str) -> None:
    data = path.parent / "data" / "1" / "data.qpdata"
    raw = DAMAGE[damage](data.read_bytes())
    data.unlink()
    if raw is not None:
        data.write_bytes(raw)
    before = files_in(path.parent)
    project, image = opened(path)
    began = time.monotonic()
    for attempt in (
        lambda: project.read_annotations(image),
        lambda: project.detection_ids(image),
        lambda: project.write(image, changes_of(["tissue"])),
    ):
        with pytest.raises(ImageDataError, match=r"1.data\.qpdata .*restore it from"):
            attempt()
    assert time.monotonic() - began < 20
    assert files_in(path.parent) == before


def test_the_backup_that_is_there_is_named(path: Path, java: Any) -> None:
    data = path.parent / "data" / "1" / "data.qpdata"
    shutil.copy(data, data.with_name("data.qpdata.bkp"))
    data.write_bytes(data.read_bytes()[:500])
    project, image = opened(path)
    with pytest.raises(ImageDataError, match=r"cut short.*restore it from data\.qpdata\.bkp"):
        project.read_annotations(image)
    data.unlink()
    with pytest.raises(ImageDataError, match=r"is missing .*from data\.qpdata\.bkp beside it"):
        project.read_annotations(image)


def test_nothing_is_written_for_an_image_whose_file_is_gone(path: Path, java: Any) -> None:
    shutil.rmtree(path.parents[1] / "slides")
    template_path = path.with_name("project.qpproj")
    raw = template_path.read_text(encoding="utf-8").replace("/here/slides", "/here/gone")
    template_path.write_text(raw, encoding="utf-8")
    project, image = opened(path)
    before = files_in(path.parent)
    assert project.read_annotations(image)
    with pytest.raises(SlideError, match=r"slide ü\.tif is missing; nothing was written"):
        project.write(image, changes_of(["tissue"]))
    assert files_in(path.parent) == before


def test_nothing_is_written_for_an_image_that_qupath_cannot_open(path: Path, java: Any) -> None:
    project, image = opened(path)
    image.path.write_bytes(b"no image")
    before = files_in(path.parent)
    with pytest.raises(SlideError, match=r"QuPath cannot open .*nothing was written"):
        project.write(image, changes_of(["tissue"]))
    assert files_in(path.parent) == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits on files")
def test_a_full_disk_leaves_the_data_as_it_was(path: Path, java: Any) -> None:
    import resource

    project, image = opened(path)
    data = path.parent / "data" / "1" / "data.qpdata"
    before = data.read_bytes()
    changes = changes_of(["tissue"], 400)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(ProjectError, match=r"cannot write .*data\.qpdata .*left as it is"):
            project.write(image, changes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert data.read_bytes() == before
    assert not [p for p in data.parent.iterdir() if p.name.endswith(".tmp")]
    project.write(image, changes)
    assert len(project.detection_ids(image) or ()) == 400


def test_what_another_program_saved_meanwhile_is_not_overwritten(path: Path, java: Any) -> None:
    from qupath_bridge.project import qpdata

    data = path.parent / "data" / "1" / "data.qpdata"
    seen = qpdata.signature_of(data)
    image_data = open_project(path, "paquo")._project.images[0]._image_data  # type: ignore[attr-defined]
    os.utime(data, (1, 1))
    before = data.read_bytes()
    with pytest.raises(ProjectError, match="changed by another program"):
        qpdata.write_image_data(data, image_data, seen)
    assert data.read_bytes() == before


def test_what_qupath_cannot_read_is_refused_in_one_sentence(path: Path, java: Any) -> None:
    raw = path.read_text(encoding="utf-8").replace('"uri",', '"of 2031",')
    path.write_text(raw, encoding="utf-8")
    with pytest.raises(ProjectError, match=r"QuPath cannot read .*--backend portable") as refused:
        open_project(path, "paquo")
    assert "\n" not in str(refused.value)
    (image,) = open_project(path, "portable").images()
    assert "of 2031" in (image.unsupported or "")


def test_a_project_without_images_is_refused(java: Any, tmp_path: Path) -> None:
    file = tmp_path / "project.qpproj"
    content = {"version": "0.5.1", "createTimestamp": 1, "modifyTimestamp": 1, "lastID": 0}
    file.write_text(json.dumps({**content, "images": []}))
    with pytest.raises(ProjectError, match="has no images; add some in QuPath"):
        open_project(tmp_path, "paquo").images()


def test_java_prints_nothing_on_standard_output_and_ctrl_c_is_pythons(
    path: Path, java: Any
) -> None:
    code = """
import sys, time
from pathlib import Path
from qupath_bridge.project import ImageWrite, open_project
project = open_project(Path(sys.argv[1]), "auto")
(image,) = project.images()
project.read_annotations(image)
project.write(image, ImageWrite(["tissue"], ["tissue"], []))
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", project.backend)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert (first, rest, process.returncode) == ("ready\n", "interrupted paquo\n", 0)
    assert time.monotonic() - began < 10


def test_file_names_beyond_ascii_do_not_depend_on_the_locale(path: Path, java: Any) -> None:
    code = """
import sys
from pathlib import Path
from qupath_bridge.project import open_project
project = open_project(Path(sys.argv[1]), "paquo")
print(len(project.read_annotations(project.images()[0])))
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("LANG", "LC_CTYPE")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**environment, "LC_ALL": "C"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "6", done.stderr


def test_more_detections_than_are_added_at_a_time_come_from_disk(
    path: Path, tmp_path: Path, java: Any
) -> None:
    project, image = opened(path)
    ids = list(region_ids(project, image).values())[:2]
    in_memory = _many(ids, 2 * CHUNK + 1)
    spool = ObjectSpool(tmp_path / "spool")
    spool.append(0, 0, in_memory.detections)
    project.write(image, replace(in_memory, detections=spool))
    found = ours(seen_by_qupath(path))
    assert found.keys() == {d.id for d in in_memory.detections}
    project.write(image, in_memory)
    assert ours(seen_by_qupath(path)) == found


@pytest.mark.slow
def test_a_hundred_thousand_detections_are_written_within_seconds(path: Path, java: Any) -> None:
    project, image = opened(path)
    ids = list(region_ids(project, image).values())[:2]
    changes = _many(ids, 100_000)
    before, wall = time.thread_time(), time.monotonic()
    project.write(image, changes)
    spent = time.thread_time() - before
    print(f"100,000 detections: {spent:.1f} s of this thread, {time.monotonic() - wall:.1f} s")
    assert project.detection_ids(image) == {d.id for d in changes.detections}
    assert spent < 10


def _many(regions: Sequence[str], count: int) -> ImageWrite:
    rng = np.random.default_rng(0)
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    centres = rng.uniform(20, 480, (count, 1, 2))
    radii = rng.uniform(3, 8, (count, 40, 1))
    rings = centres + radii * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    made = [detection(number, regions[number % len(regions)]) for number in range(count)]
    detections = [
        replace(
            plain,
            outline_l0=Polygon(ring),
            id=detection_id("tissue", plain.region_id, str(number).encode()),
        )
        for number, (plain, ring) in enumerate(zip(made, rings, strict=True))
    ]
    return ImageWrite(["tissue"], list(regions), detections)
