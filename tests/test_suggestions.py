"""Suggestions: ours as long as nobody has touched them, and as QuPath reads them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import shapely
from shapely.geometry import Point, box

from qupath_bridge.detections import is_ours, is_suggestion, replaced_by
from qupath_bridge.errors import ProjectError
from qupath_bridge.project.base import Annotation
from qupath_bridge.project.geojson_objects import read_annotations
from qupath_bridge.regions import annotation_regions
from qupath_bridge.suggestions import is_untouched, make_suggestion, write_suggestions

SQUARE = box(512, 1024, 1024, 1536)
ONE = make_suggestion(1, SQUARE, 0.625, 0.4375)
WRITTEN = Annotation(ONE.id, "Annotate next 1", "Ignore*", SQUARE)


def test_a_suggestion_is_known_from_detections_and_their_runs_leave_it():
    assert is_suggestion(ONE.id) and not is_ours(ONE.id)
    assert not replaced_by(["tissue"], ["tissue"], [])(ONE.id)
    assert ONE.id == make_suggestion(7, SQUARE, 0, None).id
    assert ONE.id != make_suggestion(1, box(512, 1024, 1024, 1537), 0, None).id


@pytest.mark.parametrize("shape", [SQUARE, SQUARE.normalize(), shapely.reverse(SQUARE)])
def test_a_suggestion_as_it_was_written_is_untouched(shape):
    assert is_untouched(replace(WRITTEN, geometry_l0=shape))


TOUCHED = {
    "another class": {"class_name": "Tumor"},
    "no class": {"class_name": None},
    "a derived class": {"class_name": "Ignore*: Fold"},
    "another name": {"name": "done"},
    "no name": {"name": None},
    "moved": {"geometry_l0": box(513, 1024, 1025, 1536)},
    "resized": {"geometry_l0": box(512, 1024, 1024, 1500)},
    "cut": {"geometry_l0": SQUARE.difference(Point(600, 1100).buffer(30))},
    "a corner cut": {"geometry_l0": SQUARE.difference(box(500, 1000, 530, 1050))},
    "emptied": {"geometry_l0": SQUARE.difference(SQUARE)},
    "a copy": {"id": "a2b14c3e-1111-4222-8333-444455556666"},
    "a detection's id": {"id": ONE.id.replace("70736473", "70736466")},
}


@pytest.mark.parametrize("what", TOUCHED)
def test_a_suggestion_that_somebody_changed_is_theirs(what):
    assert not is_untouched(replace(WRITTEN, **TOUCHED[what]))


def test_what_is_written_reads_as_untouched_annotations(tmp_path):
    other = make_suggestion(2, box(0, 0, 512, 512), 0.5, None)
    path = tmp_path / "1" / "suggestions.geojson"
    write_suggestions(path, [ONE, other])
    content = json.loads(path.read_text(encoding="utf-8"))
    annotations = read_annotations(content)
    assert [a.name for a in annotations] == ["Annotate next 1", "Annotate next 2"]
    assert all(map(is_untouched, annotations))
    first, second = (feature["properties"] for feature in content["features"])
    assert first == {
        "objectType": "annotation",
        "name": "Annotate next 1",
        "classification": {"name": "Ignore*", "color": [180, 180, 180]},
        "isLocked": True,
        "measurements": {"PathSegDiff: Uncertainty": 0.625, "PathSegDiff: Novelty": 0.4375},
    }
    assert "PathSegDiff: Novelty" not in second["measurements"]


def test_of_no_suggestions_no_file_is_left(tmp_path):
    path = tmp_path / "1" / "suggestions.geojson"
    write_suggestions(path, [])
    write_suggestions(path, [ONE])
    write_suggestions(path, [])
    assert list(path.parent.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "1").write_text("a file in the way")
    with pytest.raises(ProjectError, match=r"suggestions\.geojson"):
        write_suggestions(tmp_path / "1" / "suggestions.geojson", [ONE])


def test_a_run_passes_over_untouched_suggestions_without_a_word():
    tumor = Annotation("a2b14c3e-1111-4222-8333-444455556666", None, "Tumor", SQUARE)
    renamed = replace(WRITTEN, name="not this")
    found = annotation_regions([WRITTEN, tumor, renamed], (5000, 5000))
    assert [region.id for region in found.regions] == [tumor.id]
    assert [warning.split('"')[1] for warning in found.warnings] == ["not this"]
