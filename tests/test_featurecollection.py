"""Detections as the GeoJSON that QuPath reads, and back."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from objects import detection
from shapely.geometry import Point, Polygon, box

from qupath_bridge.detections import Detection
from qupath_bridge.errors import ProjectError
from qupath_bridge.featurecollection import (
    END,
    START,
    iter_detections,
    read_detections,
    write_detections,
)


def many(count: int) -> Iterator[Detection]:
    for i in range(count):
        disc = Point(100 * (i % 300), 100 * (i // 300)).buffer(20)
        yield detection(shapely.transform(disc, lambda xy: xy.round(2)))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
hundredths = st.integers(0, 20_000_000).map(lambda n: n / 100)


@st.composite
def any_detections(draw: st.DrawFn) -> Detection:
    x, y = draw(hundredths), draw(hundredths)
    width, height = draw(st.integers(3, 900)), draw(st.integers(3, 900))
    points = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    outline = Polygon([(round(a, 2), round(b, 2)) for a, b in points])
    made = detection(outline, draw(texts), draw(texts))
    return Detection(**{**vars(made), "head": draw(texts), "area_um2": draw(st.floats(0, 1e12))})


@given(detections=st.lists(any_detections(), max_size=5))
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_was_written_reads_back_the_same(detections, tmp_path):
    path = tmp_path / "detections.geojson"
    write_detections(path, detections)
    assert read_detections(path) == detections
    assert list(iter_detections(path)) == detections


def test_a_feature_is_what_qupath_reads(tmp_path):
    path = tmp_path / "detections.geojson"
    one = detection(name="Größe 🔬")
    write_detections(path, [one])
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection"
    (feature,) = content["features"]
    assert feature["type"] == "Feature"
    assert feature["id"] == one.id
    outer, hole = feature["geometry"]["coordinates"]
    assert outer[0] == outer[-1]
    assert hole[0] == hole[-1]
    assert feature["properties"] == {
        "objectType": "detection",
        "name": "tissue",
        "classification": {"name": "Größe 🔬", "color": [200, 0, 0]},
        "measurements": {
            "Area µm^2": one.area_um2,
            "Mean probability": 0.871234,
            "Mean entropy": 0.312345,
        },
    }
    assert feature["pathsegdiff"] == {"region": "r-1"}


def test_a_file_of_the_earlier_form_reads_the_same(tmp_path):
    path = tmp_path / "detections.geojson"
    write_detections(path, many(3))
    content = json.loads(path.read_text(encoding="utf-8"))
    for feature in content["features"]:
        region = feature.pop("pathsegdiff")["region"]
        head = feature["properties"]["name"]
        metadata = {"pathsegdiff.head": head, "pathsegdiff.region": region}
        feature["properties"] |= {"name": "renamed", "metadata": metadata}
    path.write_text(json.dumps(content), encoding="utf-8")
    assert read_detections(path) == list(many(3))


def test_an_object_whose_entropy_was_not_measured_is_read_and_written_as_it_is(tmp_path):
    old = replace(detection(), mean_entropy=None)
    path = tmp_path / "detections.geojson"
    write_detections(path, [old])
    assert "Mean entropy" not in path.read_text(encoding="utf-8")
    assert read_detections(path) == [old]


def test_coordinates_keep_to_two_decimals(tmp_path):
    path = tmp_path / "detections.geojson"
    write_detections(path, many(20))
    for feature in json.loads(path.read_text(), parse_float=str)["features"]:
        values = [v for point in feature["geometry"]["coordinates"][0] for v in point]
        assert all(len(value.partition(".")[2]) <= 2 for value in values)


def test_no_detections_are_an_empty_collection(tmp_path):
    path = tmp_path / "detections.geojson"
    write_detections(path, [])
    assert json.loads(path.read_text()) == {"type": "FeatureCollection", "features": []}
    assert read_detections(path) == []


def test_a_file_laid_out_anew_reads_the_same(tmp_path):
    path = tmp_path / "detections.geojson"
    write_detections(path, many(3))
    content = json.loads(path.read_text())
    for feature in content["features"]:
        feature["properties"] |= {"isLocked": False, "color": [1, 2, 3]}
    path.write_text(json.dumps(dict(reversed(content.items())), indent=3))
    assert read_detections(path) == list(many(3))
    assert list(iter_detections(path)) == list(many(3))


@pytest.mark.parametrize("name", ["detections.geojson", "detections.geojson.gz"])
def test_reading_one_by_one_holds_a_few_at_a_time(tmp_path, name):
    path = tmp_path / name
    write_detections(path, many(4000))
    tracemalloc.start()
    assert sum(1 for _ in iter_detections(path)) == 4000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4000 * 100  # a detection takes some thousand bytes


def test_a_file_that_is_laid_out_anew_from_the_middle_on_reads_the_same(tmp_path):
    path = tmp_path / "detections.geojson"
    write_detections(path, many(5))
    lines = path.read_text().splitlines()
    lines[3] = lines[3].replace(",", ",\n")
    path.write_text("\r\n".join(lines) + "\n\n", newline="")
    assert list(iter_detections(path)) == list(many(5))


def test_writing_holds_a_few_detections_at_a_time(tmp_path):
    tracemalloc.start()
    write_detections(tmp_path / "detections.geojson", many(4000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = (tmp_path / "detections.geojson").stat().st_size
    assert peak < size


def test_a_failing_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "detections.geojson"
    write_detections(path, [detection()])

    def breaking() -> Iterator[Detection]:
        yield detection(box(0, 0, 5, 5))
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_detections(path, breaking())
    assert read_detections(path) == [detection()]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ProjectError, match="nowhere"):
        write_detections(tmp_path / "nowhere" / "detections.geojson", [])


def broken_files() -> dict[str, str]:
    feature: dict[str, Any] = {
        "type": "Feature",
        "id": "x",
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]},
        "properties": {
            "name": "tissue",
            "classification": {"name": "Tumor", "color": [1, 2, 3]},
            "measurements": {"Area µm^2": 1, "Mean probability": 1},
        },
        "pathsegdiff": {"region": "r"},
    }

    def without(*keys: str, **instead: object) -> str:
        changed = json.loads(json.dumps(feature))
        place = changed
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]
        place.update(instead)
        return json.dumps({"type": "FeatureCollection", "features": [changed]})

    whole = without("id", id="x")
    return {
        "empty": "",
        "cut off": whole[: len(whole) // 2],
        "not JSON": "<html>",
        "a number": "3",
        "a list": "[]",
        "null": "null",
        "no features": '{"type": "FeatureCollection"}',
        "features of no list": '{"type": "FeatureCollection", "features": 3}',
        "another type": '{"type": "Topology", "features": []}',
        "an odd feature": '{"type": "FeatureCollection", "features": [1]}',
        "nested too deep": "[" * 100_000,
        "a feature alone": json.dumps(feature),
        "no id": without("id"),
        "no geometry": without("geometry"),
        "another geometry": without("geometry", "type", type="MultiPolygon"),
        "no rings": without("geometry", "coordinates", coordinates=[]),
        "too few points": without("geometry", "coordinates", coordinates=[[[0, 0], [1, 1]]]),
        "text for numbers": without("geometry", "coordinates", coordinates=[[["a", "b"]] * 4]),
        "no class": without("properties", "classification"),
        "no colour": without("properties", "classification", "color"),
        "half a colour": without("properties", "classification", "color", color=[1, 2]),
        "no area": without("properties", "measurements", "Area µm^2"),
        "no head": without("properties", "name"),
        "nothing of ours": without("pathsegdiff"),
        "no region": without("pathsegdiff", "region"),
        "half of the earlier form": without(
            "pathsegdiff",
            properties=feature["properties"] | {"metadata": {"pathsegdiff.region": "r"}},
        ),
    }


@pytest.mark.parametrize("kind", broken_files())
def test_a_broken_file_is_refused_by_name(tmp_path, kind):
    path = tmp_path / "detections.geojson"
    path.write_text(broken_files()[kind], encoding="utf-8")
    with pytest.raises(ProjectError, match=r"detections\.geojson") as whole:
        read_detections(path)
    with pytest.raises(ProjectError) as streamed:
        list(iter_detections(path))
    assert str(streamed.value) == str(whole.value)


def spoilt(lines: list[str]) -> dict[str, list[str]]:
    """Return the lines of a whole file, spoilt in the ways that lines can be."""
    first, last = lines[1], lines[-2]
    return {
        "no end": lines[:-1],
        "cut within a line": [*lines[:-2], last[:-9]],
        "cut before a feature": [*lines[:-2], "]}"],
        "the last feature alone has no end": lines[:-2],
        "two ends": [*lines, "]}"],
        "more after the end": [*lines, first],
        "a feature after the last": [*lines[:-1], last, "]}"],
        "no comma": [START, first.removesuffix(","), *lines[2:]],
        "an odd feature": [START, "1,", *lines[2:]],
        "a feature of nothing": [START, '{"type":"Feature"},', *lines[2:]],
        "a line of nothing": [*lines[:2], "", ",", *lines[2:]],
        "a comma alone": [START, ",", END],
        "begins only": [START],
    }


@pytest.mark.parametrize("kind", spoilt([""] * 5))
@pytest.mark.parametrize("name", ["detections.geojson", "detections.geojson.gz"])
def test_lines_that_are_no_whole_file_are_refused_as_the_whole_is(tmp_path, kind, name):
    path = tmp_path / name
    write_detections(path, many(3))
    packed = path.suffix == ".gz"
    text = gzip.decompress(path.read_bytes()).decode() if packed else path.read_text()
    text = "\n".join(spoilt(text.splitlines())[kind])
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    with pytest.raises(ProjectError, match=r"detections\.geojson") as whole:
        read_detections(path)
    with pytest.raises(ProjectError) as streamed:
        list(iter_detections(path))
    assert str(streamed.value) == str(whole.value)


def test_a_packed_file_that_is_cut_off_is_refused(tmp_path):
    path = tmp_path / "detections.geojson.gz"
    write_detections(path, many(30))
    path.write_bytes(path.read_bytes()[:-6])  # all the text is there, but not its checksum
    with pytest.raises(ProjectError, match="restore it"):
        list(iter_detections(path))


def test_a_file_that_is_not_text_is_refused_by_name(tmp_path):
    path = tmp_path / "detections.geojson"
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ProjectError, match=r"detections\.geojson"):
        read_detections(path)
    with pytest.raises(ProjectError, match=r"gone\.geojson"):
        read_detections(tmp_path / "gone.geojson")
