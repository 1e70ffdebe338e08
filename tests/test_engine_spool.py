"""Objects that wait on disk: the very same, in order, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from objects import detection
from shapely.geometry import Point, Polygon

from qupath_bridge.detections import Detection
from qupath_bridge.engine.spool import ObjectSpool
from qupath_bridge.errors import ProjectError

finite = st.floats(allow_nan=False, allow_infinity=False)


def named(count: int, prefix: str = "") -> list[Detection]:
    return [detection(name=f"{prefix}{i}") for i in range(count)]


def discs(count: int) -> Iterator[Detection]:
    for i in range(count):
        yield detection(outline=Point(100 * (i % 300), 100 * (i // 300)).buffer(20))


def bits(value: float) -> bytes:
    return np.float64(value).tobytes()


def test_objects_come_by_region_then_head_then_as_they_were_appended(tmp_path):
    spool = ObjectSpool(tmp_path / "spool")
    spool.append(10, 0, named(2, "f"))
    spool.append(2, 1, named(1, "d"))
    spool.append(2, 0, named(2, "a"))
    spool.append(10, 0, iter(named(1, "g")))
    spool.append(2, 0, named(1, "b"))
    spool.append(3, 0, [])
    expected = ["a0", "a1", "b0", "d0", "f0", "f1", "g0"]
    assert [d.class_name for d in spool] == expected
    assert [d.class_name for d in spool] == expected
    assert len(spool) == 7
    spool.append(0, 2, named(1, "first"))
    assert next(iter(spool)).class_name == "first0"


@given(
    points=st.lists(st.tuples(finite, finite), min_size=4, max_size=9),
    values=st.tuples(finite, finite, st.none() | finite),
    name=st.text(st.characters(exclude_categories=["Cs"])),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_an_object_comes_back_to_the_last_bit(tmp_path_factory, points, values, name):
    spool = ObjectSpool(tmp_path_factory.mktemp("spool"))
    area, probability, entropy = values
    made = replace(
        detection(Polygon(points, [points]), name),
        area_um2=area,
        mean_probability=probability,
        mean_entropy=entropy,
        region_id=name,
    )
    spool.append(0, 0, [made])
    (back,) = spool
    assert back.outline_l0.wkb == made.outline_l0.wkb
    assert bits(back.area_um2) == bits(area)
    assert bits(back.mean_probability) == bits(probability)
    assert back == made


def test_odd_names_are_kept(tmp_path):
    spool = ObjectSpool(tmp_path)
    odd = named(1, 'a\nb\r\u2028\x85\0"}') * 3
    spool.append(0, 0, odd)
    assert list(spool) == odd


def test_memory_does_not_grow_with_the_objects(tmp_path):
    peaks = []
    for count in (3000, 12000):
        spool = ObjectSpool(tmp_path / str(count))
        tracemalloc.start()
        spool.append(0, 0, discs(count))
        assert sum(1 for _ in spool) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_many_regions_hold_no_open_files(tmp_path):
    resource = pytest.importorskip("resource", reason="file limits are a matter of POSIX")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/dev/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 10, limits[1]))
    try:
        spool = ObjectSpool(tmp_path / "spool")
        for _ in range(2):
            for region in range(400):
                for head in range(3):
                    spool.append(region, head, [detection(region_id=f"{region}-{head}")])
        regions = [d.region_id for d in spool]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert regions == [f"{r}-{h}" for r in range(400) for h in range(3) for _ in range(2)]


def test_what_a_killed_run_left_is_taken_away(tmp_path):
    ObjectSpool(tmp_path / "a" / "b").append(0, 0, named(3))
    (tmp_path / "a" / "b" / "notes.txt").write_text("not ours")
    again = ObjectSpool(tmp_path / "a" / "b")
    assert list(again) == []
    again.append(0, 0, named(1))
    assert len(list(again)) == 1
    again.remove()
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["notes.txt"]


def test_a_removed_spool_leaves_nothing_and_is_empty(tmp_path):
    spool = ObjectSpool(tmp_path / "spool")
    spool.append(1, 0, named(3))
    spool.remove()
    assert list(tmp_path.iterdir()) == []
    assert (list(spool), len(spool)) == ([], 0)
    spool.remove()


def test_what_fails_while_objects_are_made_is_not_taken_for_the_disk(tmp_path):
    def failing() -> Iterator[Detection]:
        yield detection()
        raise OSError("the slide is gone")

    with pytest.raises(OSError, match="slide is gone"):
        ObjectSpool(tmp_path).append(0, 0, failing())


def cut(content: bytes) -> bytes:
    return content[:-20]


def cut_where_a_record_begins(content: bytes) -> bytes:
    return content[: len(content) // 2 + 3]


def one_less(content: bytes) -> bytes:
    return content[: len(content) // 2]


def another(content: bytes) -> bytes:
    return content.replace(b"Tumor", b"Tumar", 1)


@pytest.mark.parametrize("damage", [cut, cut_where_a_record_begins, one_less, another])
def test_a_damaged_spool_is_refused_by_name(tmp_path, damage):
    spool = ObjectSpool(tmp_path)
    for _ in range(2):
        spool.append(4, 1, [detection(name="Tumor")])
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    assert damage(content) != content
    path.write_bytes(damage(content))
    with pytest.raises(ProjectError, match=r"4-1.*run again"):
        list(spool)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ProjectError, match=r"file.spool cannot be written.*run again"):
        ObjectSpool(tmp_path / "file" / "spool")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told(tmp_path):
    spool = ObjectSpool(tmp_path)
    (tmp_path / "0-0.objects").symlink_to("/dev/full")
    with pytest.raises(ProjectError, match=r"No space left.*make room"):
        spool.append(0, 0, named(1))


def test_objects_of_numpy_numbers_are_kept_too(tmp_path):
    spool = ObjectSpool(tmp_path)
    made = replace(detection(), mean_probability=np.float64(0.1), area_um2=np.float64(1 / 3))
    spool.append(0, 0, [made])
    (back,) = spool
    assert shapely.equals_exact(back.outline_l0, made.outline_l0)
    assert (back.mean_probability, back.area_um2) == (0.1, 1 / 3)
