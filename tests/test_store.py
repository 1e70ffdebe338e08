"""Results in a project's folder: replaced whole, from themselves too."""

from __future__ import annotations

from itertools import chain

import pytest
from shapely.geometry import box

from qupath_bridge.detections import Detection, detection_id
from qupath_bridge.errors import ProjectError
from qupath_bridge.store import Made, ResultStore, Scope, StoredResult, digest_of

MADE = Made("model", ("tissue",), {}, "slide", "regions")


def detection(name: str, region_id: str = "r") -> Detection:
    new_id = detection_id("tissue", region_id, name.encode())
    return Detection(new_id, "tissue", region_id, name, (1, 2, 3), box(0, 0, 9, 9), 1.0, 0.5)


def test_what_is_kept_is_read_while_it_is_replaced(tmp_path):
    store = ResultStore(tmp_path)
    earlier = [detection("a", "stays"), detection("b", "anew"), detection("c", "stays")]
    store.write_detections("1", earlier)
    scope = Scope(["tissue"], ["anew"], ["stays", "anew"])
    kept = scope.kept_detections(store.read_detections("1"))
    digest = store.write_detections("1", chain(kept, [detection("d", "anew")]))
    found = list(store.read_detections("1"))
    assert [d.class_name for d in found] == ["a", "c", "d"]
    assert digest == digest_of(d.id for d in found)


def test_an_image_counts_as_done_until_its_detections_are_replaced(tmp_path):
    store = ResultStore(tmp_path)
    digest = store.write_detections("1", [detection("a")])
    store.write_result("1", StoredResult(MADE, (), digest))
    path = store.detections_path("1")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ProjectError, match="restore it"):
        store.write_detections("1", store.read_detections("1"))
    assert store.read_result("1") == StoredResult(MADE, (), digest)
    store.write_detections("1", [])
    assert store.read_result("1") is None


def test_an_image_without_a_file_has_no_detections(tmp_path):
    assert list(ResultStore(tmp_path).read_detections("1")) == []
