"""What a client may ask for, and how it is told what is wrong: a field, by its JSON pointer."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import collection, feature, image_body, segment_body, square

from qupath_bridge.errors import RequestError
from qupath_bridge.geometry import Mpp
from qupath_bridge.jobs import RequestLimits, feeder, parse_job
from qupath_bridge.jobs.job import Progress

PATH = "/slides/a b.svs"
POINTS = "/regions/features/0/geometry/coordinates"


def asked(body, **limits):
    return parse_job(body, RequestLimits(**limits))


def refused(body, **limits) -> str:
    """Return how a body is refused: the field's pointer, a space, and the sentence."""
    with pytest.raises(RequestError) as told:
        asked(body, **limits)
    assert "\n" not in str(told.value) and not str(told.value).startswith("/")
    return f"{told.value.pointer} {told.value}"


def train_body(**more):
    regions = collection(feature(1, square(0, 0, 50)))
    body = {"kind": "train", "image": image_body(PATH), "regions": regions}
    return body | {"model": "mine", "heads": ["bed"]} | more


def test_a_whole_request_is_understood():
    body = segment_body(PATH, model="mine", heads=["tissue", "tissue"])
    body["options"] = {"minObjectUm2": 5, "overlap": 0.25, "regions": "annotations"}
    body["image"] |= {"serverBuilder": {"builderType": "uri", "uri": "file:/a.svs"},
                      "imageType": "BRIGHTFIELD_H_E", "entryID": "7", "project": "/p"}  # fmt: skip
    request = asked(body)
    assert (request.kind, request.model, request.heads) == ("segment", "mine", ("tissue",))
    assert request.settings == {"min_object_um2": 5.0, "overlap": 0.25}
    assert request.image.size_l0 == (640, 512) and request.image.mpp == Mpp(0.5, 0.5)
    assert [a.name for a in request.samples[0].annotations()] == ["Region 1"]


def test_without_regions_the_tissue_is_meant():
    assert asked(segment_body(PATH, None)).regions == "tissue"
    body = segment_body(PATH, None)
    del body["regions"]
    assert asked(body).regions == "tissue"
    assert asked(segment_body(PATH)).regions == "annotations"
    assert asked(segment_body(PATH, options={"regions": "slide"})).regions == "slide"


def test_a_training_of_one_image_or_several_is_understood():
    assert len(asked(train_body()).samples) == 1
    sample = {"image": image_body(PATH), "regions": collection(feature(1, square(0, 0, 50)))}
    body = {"kind": "train", "samples": [sample, sample], "model": "mine", "heads": ["bed"]}
    request = asked(body | {"options": {"steps": 30, "base": "default", "finetune": True}})
    assert len(request.samples) == 2
    assert (request.training.steps, request.training.finetune) == (30, True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "dance"}, "/kind kind must be one of segment, train, not 'dance'"),
        ({"kind": None}, "/kind kind is missing"),
        ({"color": 1}, "/color color is not known here"),
        ({"image": 3}, "/image image must be an object, not a number"),
        ({"model": ""}, "/model model must be a text of 1 to 64 characters"),
        ({"heads": "tissue"}, "/heads heads must be a list, not a text"),
        ({"heads": [1]}, "/heads/0 heads number 1 must be a head's name"),
        (
            {"options": {"minObjectUm2": -1}},
            "/options/minObjectUm2 minObjectUm2 must be a number in 0..1e+09",
        ),
        ({"options": {"overlap": True}}, "/options/overlap overlap must be a number"),
        ({"options": {"overlaps": 0.5}}, "/options/overlaps overlaps is not known here"),
        ({"options": {"regions": "all"}}, "/options/regions regions must be one of"),
        ({"regions": []}, "/regions regions must be a GeoJSON FeatureCollection, or null"),
        ({"regions": {"type": "FeatureCollection"}}, "/regions/features features must be a list"),
        ({"samples": []}, "/samples samples is not known here"),
    ],
)
def test_a_wrong_field_is_named(change, told):
    assert told in refused(segment_body(PATH) | change)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"width": 0}, "/image/width width must be a whole number in 1..2147483647, not 0"),
        ({"width": 1.5}, "/image/width width must be a whole number"),
        ({"height": True}, "/image/height height must be a whole number"),
        ({"height": 10**5000}, "/image/height height must be a whole number"),
        ({"uri": None}, "/image/uri uri is missing"),
        ({"uri": "a\0b"}, "/image/uri uri holds a NUL character"),
        ({"name": "\ud800"}, "/image/name name holds half of a character pair"),
        ({"pixelSizeMicrons": {"w": 1}}, "/image/pixelSizeMicrons/h h is missing"),
        ({"pixelSizeMicrons": {"w": float("nan"), "h": 1}}, "/image/pixelSizeMicrons/w w is nan"),
        ({"depth": 1}, "/image/depth depth is not known here"),
        ({"imageType": "FLUORESCENCE"}, "a.svs is a fluorescence image; only brightfield"),
    ],
)
def test_a_wrong_field_of_the_image_is_named(change, told):
    body = segment_body(PATH)
    body["image"] |= change
    assert told.replace("a.svs", "a b.svs") in refused(body)


def test_a_wrapped_server_is_refused_by_name():
    body = segment_body(PATH)
    inner = {"builderType": "uri", "uri": "file:/a.svs"}
    body["image"]["serverBuilder"] = {
        "builderType": "rotated", "rotation": "ROTATE_90", "builder": inner}  # fmt: skip
    assert "/image/serverBuilder a b.svs is rotated by QuPath (ROTATE_90)" in refused(body)


@pytest.mark.parametrize(
    "builder", [{"args": 5}, {"uri": "http://["}, {"uri": {}}, {"metadata": 3}, {"args": [[]]}]
)
def test_a_server_builder_of_odd_content_is_taken_or_refused(builder):
    body = segment_body(PATH)
    body["image"]["serverBuilder"] = {"builderType": "uri", "uri": "file:/a"} | builder
    with suppress(RequestError):
        asked(body)


@pytest.mark.parametrize(
    ("point", "told"),
    [
        ([float("nan"), 1], f"{POINTS}/0/0/0 coordinates number 1 is nan"),
        ([1, float("inf")], f"{POINTS}/0/0/1 coordinates number 2 is inf"),
        ([1e300, 1], f"{POINTS}/0/0 coordinates number 1 must be a point"),
        ([10**400, 1], f"{POINTS}/0/0 coordinates number 1 must be a point"),
        ([1], f"{POINTS}/0/0 coordinates number 1 must be a point"),
        (["1", "2"], f"{POINTS}/0/0 coordinates number 1 must be a point"),
        ([True, 1], f"{POINTS}/0/0 coordinates number 1 must be a point"),
        (7, f"{POINTS}/0/0 coordinates number 1 must be a list"),
    ],
)
def test_a_wrong_point_is_named(point, told):
    ring = square(0, 0, 10)
    ring[0] = point
    assert told in refused(segment_body(PATH, collection(feature(1, ring))))


@pytest.mark.parametrize(
    ("geometry", "told"),
    [
        ("x", "/regions/features/0/geometry geometry must be a GeoJSON geometry, not a text"),
        ({"type": "Circle"}, "geometry/type type must be one of Point, "),
        ({"type": ["Point"]}, "geometry/type type must be one of Point, "),
        ({"type": "Polygon"}, "geometry/coordinates coordinates must be a list, not null"),
        ({"type": "GeometryCollection"}, "geometry/geometries geometries must be a list, not null"),
    ],
)
def test_a_wrong_geometry_is_named(geometry, told):
    wrong = feature(1, square(0, 0, 10)) | {"geometry": geometry}
    assert told in refused(segment_body(PATH, collection(wrong)))


def test_too_much_is_refused_with_what_to_do():
    many = collection(*(feature(n, square(0, 0, 10)) for n in range(6)))
    assert "more than 5 regions; send them in several jobs" in refused(
        segment_body(PATH, many), regions=5
    )
    assert "more than 29 vertices" in refused(segment_body(PATH, many), vertices=29)
    asked(segment_body(PATH, many), vertices=30, regions=6)
    nested = feature(1, square(0, 0, 10))
    nested["properties"]["childObjects"] = [feature(2, square(0, 0, 5))]
    assert "more than 1 regions" in refused(segment_body(PATH, collection(nested)), regions=1)


def test_a_million_vertices_are_refused_before_anything_is_built():
    ring = [[float(n % 1000), float(n // 1000)] for n in range(1_000_001)]
    assert "more than 1000000 vertices" in refused(segment_body(PATH, collection(feature(1, ring))))


def test_depth_is_limited_and_does_not_exhaust_the_stack():
    deep = None
    for _ in range(100_000):
        deep = [deep]
    assert "nested deeper than 64" in refused(segment_body(PATH) | {"options": deep})


def test_a_training_needs_one_head_and_names_that_can_be():
    assert "/heads heads must name exactly one head to train, not 2" in refused(
        train_body(heads=["a", "b"])
    )
    assert "/model the model 'default' is the shipped one" in refused(train_body(model="default"))
    assert "/model '../x' cannot name a model" in refused(train_body(model="../x"))
    assert "/heads/0 'a b' cannot name a head" in refused(train_body(heads=["a b"]))
    assert "/options/steps steps must be a whole number in 1..100000" in refused(
        train_body(options={"steps": 0})
    )
    assert "there is no annotation to learn from" in refused(train_body(regions=None))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)
PLACES = st.sampled_from(
    ["kind", "image", "regions", "heads", "options", "model", "image/uri", "image/serverBuilder",
     "image/pixelSizeMicrons", "regions/features", "regions/features/0",
     "regions/features/0/geometry", "regions/features/0/geometry/coordinates",
     "regions/features/0/properties", "regions/features/0/properties/classification",
     "regions/features/0/properties/childObjects"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(place=PLACES, value=JSON)
def test_whatever_stands_anywhere_is_taken_or_refused_in_words(place, value):
    body = json.loads(json.dumps(segment_body(PATH)))
    *path, last = [int(key) if key.isdigit() else key for key in place.split("/")]
    inner = body
    for key in path:
        inner = inner[key]
    inner[last] = value
    with suppress(RequestError):
        asked(body)


def test_the_server_s_half_loads_no_deep_learning_framework():
    code = (
        "import sys, qupath_bridge.jobs;"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'rasterio') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_the_time_left_shrinks_while_nothing_is_told():
    told = [Progress("tiles", 4, 12, seconds=10, ago=ago).seconds_left for ago in (0, 5, 19.5, 60)]
    assert told == [20, 15, 1, 1]
    assert Progress("tiles", 0, 12, seconds=3).seconds_left is None
    assert Progress("tiles", 12, 12, seconds=3).seconds_left == 0


def test_the_time_left_knows_nothing_of_the_stage_before(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(feeder.time, "monotonic", lambda: now[0])
    running = feeder.Running("one")
    told = []
    for seconds, stage, done, total in [
        (0, "features", 0, 1),
        (60, "features", 1, 1),
        (1, "training", 1, 12),
        (2, "training", 2, 12),
        (2, "training", 3, 12),
    ]:
        now[0] += seconds
        running.hear({"stage": stage, "done": done, "total": total})
        told.append(running.progress.seconds_left)
    assert told == [None, 0, None, 20, 18]
