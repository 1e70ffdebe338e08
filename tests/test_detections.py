"""Ids: from them alone it is known whose an object is."""

from __future__ import annotations

from uuid import UUID, uuid4, uuid5

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qupath_bridge.detections import (
    detection_id,
    head_key,
    head_key_of,
    is_ours,
    region_key,
    region_key_of,
    replaced_by,
)

quickly = settings(max_examples=100, deadline=None, derandomize=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(head=texts, region_id=texts, contents=st.binary(max_size=40))
@quickly
def test_an_id_tells_its_head_and_region(head, region_id, contents):
    made = detection_id(head, region_id, contents)
    assert is_ours(made)
    assert head_key_of(made) == head_key(head)
    assert region_key_of(made) == region_key(region_id)


@given(head=texts, region_id=texts, contents=st.binary(max_size=40))
@quickly
def test_an_id_is_a_uuid_of_version_8_as_java_writes_it(head, region_id, contents):
    made = detection_id(head, region_id, contents)
    parsed = UUID(made)
    assert str(parsed) == made
    assert parsed.version == 8
    assert parsed.variant == "specified in RFC 4122"


@given(head=texts, region_id=texts, contents=st.binary(max_size=40))
@quickly
def test_capitals_change_nothing(head, region_id, contents):
    made = detection_id(head, region_id, contents)
    assert is_ours(made.upper())
    assert head_key_of(made.upper()) == head_key_of(made)
    assert region_key_of(made.upper()) == region_key_of(made)


def test_equal_contents_give_equal_ids_and_others_do_not():
    one = detection_id("tissue", "r", b"contents")
    assert one == detection_id("tissue", "r", b"contents")
    others = [("tissue", "r", b"other"), ("tissue", "s", b"contents"), ("glands", "r", b"contents")]
    assert len({one, *(detection_id(*other) for other in others)}) == 4


def test_ten_thousand_objects_have_as_many_ids():
    ids = {detection_id("tissue", "r", i.to_bytes(4)) for i in range(10_000)}
    assert len(ids) == 10_000


@pytest.mark.parametrize(
    "foreign",
    [
        *(str(uuid4()) for _ in range(5)),
        str(uuid5(UUID(int=7), "x")),
        "70736466-1234-4abc-8def-0123456789ab",  # our prefix, another version
        "PathDetectionObject",
        "",
    ],
    ids=lambda _: "foreign",
)
def test_the_ids_of_others_are_not_ours(foreign):
    assert not is_ours(foreign)


def test_a_run_replaces_what_it_did_anew_and_what_lost_its_region():
    goes = replaced_by(["tissue"], ["anew"], ["anew", "kept"])
    assert goes(detection_id("tissue", "anew", b""))
    assert goes(detection_id("tissue", "deleted since", b""))
    assert not goes(detection_id("tissue", "kept", b""))
    assert not goes(detection_id("glands", "anew", b""))
    assert not goes(str(uuid4()))
