"""Results in a project's folder: replaced whole, from themselves too."""

from __future__ import annotations

from itertools import chain

import pytest
from objects import detection

from qupath_bridge.errors import ProjectError
from qupath_bridge.store import Made, ResultStore, Scope, StoredResult, digest_of

MADE = Made("model", ("tissue",), {}, "slide", "regions")


def test_what_is_kept_is_read_while_it_is_replaced(tmp_path):
    store = ResultStore(tmp_path)
    earlier = [
        detection(name="a", region_id="stays"),
        detection(name="b", region_id="anew"),
        detection(name="c", region_id="stays"),
    ]
    store.write_detections("1", earlier)
    scope = Scope(["tissue"], ["anew"], ["stays", "anew"])
    kept = scope.kept_detections(store.read_detections("1"))
    digest = store.write_detections("1", chain(kept, [detection(name="d", region_id="anew")]))
    found = list(store.read_detections("1"))
    assert [d.class_name for d in found] == ["a", "c", "d"]
    assert digest == digest_of(d.id for d in found)


def test_an_image_counts_as_done_until_its_detections_are_replaced(tmp_path):
    store = ResultStore(tmp_path)
    digest = store.write_detections("1", [detection(name="a")])
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
