"""A project reached without QuPath: what is read of it, and what is said of a bad one."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shapely.geometry import MultiPolygon, Polygon, box, mapping

from qupath_bridge.errors import ProjectError
from qupath_bridge.geometry import Mpp
from qupath_bridge.project import Annotation, ImageWrite, Project, open_project

OPENSLIDE = "qupath.lib.images.servers.openslide.OpenslideServerBuilder"
METADATA = {
    "width": 1000,
    "height": 800,
    "isRGB": True,
    "pixelType": "UINT8",
    "channels": [{"name": "Red"}, {"name": "Green"}, {"name": "Blue"}],
    "pixelCalibration": {
        "pixelWidth": {"value": 0.5, "unit": "µm"},
        "pixelHeight": {"value": 0.25, "unit": "µm"},
    },
}
SQUARE = mapping(box(0, 0, 100, 100))
UUID = "a2b14c3e-1111-4222-8333-444455556666"
MakeProject = Callable[..., Path]


@pytest.fixture
def make_project(tmp_path: Path) -> MakeProject:
    """Return a function that writes a project of one image as QuPath does."""

    def make(folder: str = "my project", **changes: Any) -> Path:
        image = tmp_path / "slides" / "a ü😀.svs"
        image.parent.mkdir(exist_ok=True)
        image.touch()
        path = tmp_path / folder / "project.qpproj"
        path.parent.mkdir(parents=True)
        builder = {
            "builderType": "uri",
            "providerClassName": OPENSLIDE,
            "uri": image.as_uri(),
            "args": [],
            "metadata": METADATA,
        }
        entry = {"serverBuilder": builder, "entryID": 7, "imageName": "Slide ü 1", "metadata": {}}
        content = {
            "version": "0.5.1",
            "createTimestamp": 1,
            "modifyTimestamp": 2,
            "uri": path.as_uri(),
            "lastID": 7,
            "images": [entry],
        }
        path.write_text(json.dumps({**content, **changes}), encoding="utf-8")
        return path

    return make


def opened(path: Path) -> Project:
    return open_project(path, "portable")


def annotations_from(path: Path, content: Any, name: str = "regions.geojson") -> list[Annotation]:
    project = opened(path)
    (image,) = project.images()
    folder = project.folder / "pathsegdiff" / image.entry_id
    folder.mkdir(parents=True, exist_ok=True)
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return project.read_annotations(image)


def feature(geometry: Any = SQUARE, **properties: Any) -> dict[str, Any]:
    defaults = {"objectType": "annotation", "name": "here"}
    return {
        "type": "Feature",
        "id": UUID,
        "geometry": geometry,
        "properties": {**defaults, **properties},
    }


def test_an_image_is_what_the_project_says_of_it(make_project: MakeProject) -> None:
    path = make_project()
    project = opened(path)
    (image,) = project.images()
    assert (project.backend, project.path, project.folder) == ("portable", path, path.parent)
    assert (image.entry_id, image.name) == ("7", "Slide ü 1")
    assert image.path == path.parents[1] / "slides" / "a ü😀.svs"
    assert (image.mpp, image.size_l0, image.unsupported) == (Mpp(0.5, 0.25), (1000, 800), None)
    project.close()


@pytest.mark.parametrize("folder", ["plain", "with.dot", "a ü 😀", "x.qpproj"])
def test_a_project_is_given_by_its_file_or_its_folder(
    make_project: MakeProject, folder: str
) -> None:
    path = make_project(folder)
    assert opened(path).path == opened(path.parent).path == path


def test_a_moved_project_finds_the_image_moved_with_it(
    make_project: MakeProject, tmp_path: Path
) -> None:
    make_project("old")
    for part in ("old", "slides"):
        shutil.copytree(tmp_path / part, tmp_path / "moved" / part)
    (image,) = opened(tmp_path / "moved" / "old").images()
    assert image.path == tmp_path / "moved" / "slides" / "a ü😀.svs"


def test_a_missing_image_is_named_where_it_was_expected(
    make_project: MakeProject, tmp_path: Path
) -> None:
    path = make_project()
    shutil.rmtree(tmp_path / "slides")
    (image,) = opened(path).images()
    assert image.path == tmp_path / "slides" / "a ü😀.svs"


def image_without_metadata(path: Path) -> Path:
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["images"][0]["serverBuilder"]["metadata"]
    path.write_text(json.dumps(content), encoding="utf-8")
    folder = path.parent / "data" / "7"
    folder.mkdir(parents=True)
    return folder


def test_size_and_pixel_size_come_from_server_json_where_the_project_has_none(
    make_project: MakeProject,
) -> None:
    path = make_project()
    folder = image_without_metadata(path)
    (image,) = opened(path).images()
    assert (image.mpp, image.size_l0) == (None, None)
    (folder / "server.json").write_text(json.dumps({"builder": {}, "metadata": METADATA}))
    (image,) = opened(path).images()
    assert (image.mpp, image.size_l0) == (Mpp(0.5, 0.25), (1000, 800))


def test_fluorescence_is_told_by_what_qupath_last_saved(make_project: MakeProject) -> None:
    path = make_project()
    folder = path.parent / "data" / "7"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text('{"imageType": "FLUORESCENCE"}')
    (image,) = opened(path).images()
    assert "fluorescence" in (image.unsupported or "")


@pytest.mark.parametrize("version", ["0.2.0", "v0.3.2", "0.7.1", "0.6.0-SNAPSHOT", None])
def test_known_versions_are_read(make_project: MakeProject, version: str | None) -> None:
    assert opened(make_project(version=version)).images()


def refuses(path: Path, said: str) -> None:
    with pytest.raises(ProjectError, match=said) as refused:
        opened(path).images()
    assert "\n" not in str(refused.value)


def test_a_newer_version_is_refused_with_the_way_out(make_project: MakeProject) -> None:
    path = make_project(version="0.8.0")
    refuses(path, r"saved by QuPath 0\.8\.0; .*up to 0\.7 .*PAQUO_QUPATH_DIR .*--backend paquo")


def test_what_early_versions_saved_is_refused(make_project: MakeProject) -> None:
    refuses(make_project(version="v0.1.2"), "saved by QuPath v0.1.2; open and save it in QuPath")


def test_a_project_without_images_is_refused(make_project: MakeProject) -> None:
    refuses(make_project(images=[]), "has no images; add some in QuPath")


def test_no_such_file_is_refused(tmp_path: Path) -> None:
    refuses(tmp_path / "gone.qpproj", r"gone\.qpproj does not exist; give a \.qpproj file")


def test_a_folder_without_a_project_is_refused(tmp_path: Path) -> None:
    refuses(tmp_path, r"has no \.qpproj file; give a QuPath project")


def test_of_several_projects_in_a_folder_one_must_be_named(make_project: MakeProject) -> None:
    path = make_project()
    shutil.copy(path, path.with_name("other.qpproj"))
    refuses(path.parent, r"several projects \(other\.qpproj, project\.qpproj\)")
    assert opened(path).images()


def test_broken_json_is_refused_with_the_place(make_project: MakeProject) -> None:
    path = make_project()
    path.write_text('{\n "version": "0.5.1",\n "images": [}', encoding="utf-8")
    refuses(path, r"is broken: .* in line 3, column 13; .*project\.qpproj\.backup")


@pytest.mark.parametrize("content", ['{"a": 1}', "[]", '{"images": 3}'])
def test_json_of_something_else_is_refused(make_project: MakeProject, content: str) -> None:
    path = make_project()
    path.write_text(content, encoding="utf-8")
    refuses(path, "is not a QuPath project")


def test_a_binary_file_is_refused(make_project: MakeProject) -> None:
    path = make_project()
    path.write_bytes(b"II*\0\xff\xfe\xfa")
    refuses(path, "is not a QuPath project")


def test_an_entry_without_id_is_refused(make_project: MakeProject) -> None:
    refuses(make_project(images=[{"imageName": "x"}]), "an image without an entryID")


def test_no_exported_annotations_are_none(make_project: MakeProject) -> None:
    project = opened(make_project())
    (image,) = project.images()
    assert project.read_annotations(image) == []
    assert project.detection_ids(image) is None


@pytest.mark.parametrize("name", ["regions.geojson", "regions.geojson.gz"])
@pytest.mark.parametrize(
    "wrap",
    [lambda f: {"type": "FeatureCollection", "features": [f]}, lambda f: [f], lambda f: f],
    ids=["collection", "list", "single"],
)
def test_annotations_come_in_every_form_that_qupath_exports(
    make_project: MakeProject, wrap: Callable[[Any], Any], name: str
) -> None:
    content = wrap(feature(classification={"name": "Tumor", "color": [200, 0, 0]}))
    (annotation,) = annotations_from(make_project(), content, name)
    square = box(0, 0, 100, 100).normalize()
    assert annotation == Annotation(UUID, "here", "Tumor", square, (200, 0, 0))


@pytest.mark.parametrize(
    ("classification", "class_name", "color"),
    [
        (None, None, None),
        ({}, None, None),
        ("Stroma", "Stroma", None),
        ({"name": "Region*", "color": [0, 0, 180]}, "Region*", (0, 0, 180)),
        ({"names": ["Tumor", "Positive"], "color": [200, 0, 0]}, "Tumor: Positive", (200, 0, 0)),
        ({"name": "Tumor", "colorRGB": -3670016}, "Tumor", (200, 0, 0)),
    ],
)
def test_a_class_is_named_and_coloured_in_every_way(
    make_project: MakeProject,
    classification: Any,
    class_name: str | None,
    color: tuple[int, int, int] | None,
) -> None:
    (annotation,) = annotations_from(make_project(), feature(classification=classification))
    assert (annotation.class_name, annotation.class_color) == (class_name, color)


def test_only_annotations_are_regions_nested_ones_too(make_project: MakeProject) -> None:
    inner = feature(name="inner")
    features = [
        feature(name="outer", childObjects=[inner, feature(objectType="detection")]),
        feature(name="cell", objectType="cell"),
        feature(name="core", objectType="tmaCore"),
        {"type": "Feature", "id": "PathAnnotationObject", "geometry": SQUARE, "properties": None},
    ]
    found = annotations_from(make_project(), features)
    assert [annotation.name for annotation in found] == ["outer", "inner", None]
    assert len({annotation.id for annotation in found}) == 3


def test_holes_and_several_parts_are_kept(make_project: MakeProject) -> None:
    shape = MultiPolygon([box(0, 0, 50, 50).difference(box(10, 10, 20, 20)), box(60, 60, 80, 80)])
    (annotation,) = annotations_from(make_project(), feature(mapping(shape)))
    assert annotation.geometry_l0.equals(shape)


def test_ids_that_are_missing_follow_from_the_shape(make_project: MakeProject) -> None:
    unnamed = [{**feature(), "id": None}, feature(mapping(box(5, 5, 9, 9)))]
    del unnamed[1]["id"]
    path = make_project()
    once = [annotation.id for annotation in annotations_from(path, unnamed)]
    again = [annotation.id for annotation in annotations_from(path, unnamed[::-1])]
    assert sorted(once) == sorted(again)
    assert once[0] != once[1]


@pytest.mark.parametrize(
    ("geometry", "kind"),
    [
        ({"type": "Point", "coordinates": [1, 2]}, "Point"),
        ({"type": "LineString", "coordinates": [[1, 2], [3, 4]]}, "LineString"),
        ({"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]}, "MultiPoint"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [9, 9], [0, 9], [9, 0], [0, 0]]]}, "Polygon"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [9, 9], [0, 0]]]}, "LineString"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [0, 0]]]}, "Point"),
        ({"type": "Polygon", "coordinates": []}, "Polygon"),
        ({"type": "Polygon", "coordinates": [[[0, "NaN"], [9, 9], [0, 9], [0, 0]]]}, "Polygon"),
        ({"type": "MultiPolygon", "coordinates": []}, "MultiPolygon"),
        ({}, "Polygon"),
        (None, "Polygon"),
    ],
)
def test_shapes_that_are_no_regions_come_as_they_are(
    make_project: MakeProject, geometry: Any, kind: str
) -> None:
    (annotation,) = annotations_from(make_project(), feature(geometry))
    assert annotation.geometry_l0.geom_type == kind


def test_measurements_that_are_no_numbers_do_no_harm(make_project: MakeProject) -> None:
    content = json.dumps(feature(measurements={"a": "NaN"})).replace('"NaN"', "NaN").encode()
    assert annotations_from(make_project(), content)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"",
        b'"text"',
        b'{"type": "Feature"',
        b"\xff\xfe",
        b"\x1f\x8bnot gzip",
        b'[{"geometry": {"type": "Polygon"}}]',
        b'[{"geometry": {"type": "Blob", "coordinates": [1]}}]',
        b'[{"geometry": {"type": "Polygon", "coordinates": [[["a", "b"]]]}}]',
        b"[3]",
    ],
)
def test_broken_annotations_are_refused_with_the_file(
    make_project: MakeProject, content: bytes
) -> None:
    with pytest.raises(ProjectError, match=r"7.regions\.geojson is broken.*export the annotations"):
        annotations_from(make_project(), content)


def test_writing_leaves_everything_as_it_is(make_project: MakeProject) -> None:
    path = make_project()
    project = opened(path)
    before = path.read_bytes()
    project.write(project.images()[0], ImageWrite(["tissue"], ["slide"], []))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_polygon_is_empty(make_project: MakeProject) -> None:
    (annotation,) = annotations_from(
        make_project(), feature({"type": "Polygon", "coordinates": []})
    )
    assert annotation.geometry_l0.equals(Polygon())
