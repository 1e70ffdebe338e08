"""Finished bands on disk: kept, told apart, and never believed when damaged."""

from __future__ import annotations

import json
import os
import shutil
import signal

import numpy as np
import pytest

from qupath_bridge.classmap import STEPS, ClassMap
from qupath_bridge.engine.band_file import packed
from qupath_bridge.engine.checkpoint import Checkpoint
from qupath_bridge.engine.fused import FusedBand
from qupath_bridge.errors import ProjectError

MADE = {"made": {"model": "abc", "heads": ("tissue",)}, "bands": [(0, 12), (64, 9)], "batch": 4}


def a_band(code: int = 1) -> FusedBand:
    codes = np.full((4, 6), code, np.uint8)
    layers = codes, np.full((4, 6), STEPS, np.uint16), np.zeros((4, 6), np.uint16)
    return FusedBand({(0, "tissue"): [ClassMap(*layers, -4, 8, 2)]}, undecodable=1)


@pytest.fixture
def said():
    return []


def test_bands_are_there_for_the_next_run(tmp_path, said):
    first = Checkpoint(tmp_path / "checkpoint")
    assert first.begin(MADE, False, said.append) == MADE
    first.write(1, a_band())
    again = Checkpoint(tmp_path / "checkpoint")
    again.begin(MADE, False, said.append)
    assert [again.has(band) for band in (0, 1)] == [False, True]
    assert packed(again.read(1)) == packed(a_band())
    assert again.read(0) is None
    assert said == []


def test_the_batch_that_an_earlier_run_had_stays_in_force(tmp_path, said):
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    checkpoint.begin(MADE, False, said.append)
    checkpoint.write(0, a_band())
    assert checkpoint.begin({**MADE, "batch": 16}, False, said.append)["batch"] == 4
    assert checkpoint.has(0)


@pytest.mark.parametrize("other", [{"made": {"model": "other"}}, {"bands": [(0, 12)]}])
def test_what_was_made_from_something_else_is_thrown_away_and_that_is_said(tmp_path, said, other):
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    checkpoint.begin(MADE, False, said.append)
    checkpoint.write(0, a_band())
    checkpoint.begin({**MADE, **other}, False, said.append)
    assert not checkpoint.has(0)
    assert "something else" in said[0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"format": 99}'])
def test_a_damaged_description_is_no_checkpoint(tmp_path, said, content):
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    checkpoint.begin(MADE, False, said.append)
    checkpoint.write(0, a_band())
    (tmp_path / "checkpoint" / "made.json").write_bytes(content)
    assert checkpoint.begin(MADE, False, said.append) == MADE
    assert not checkpoint.has(0)
    assert len(said) == 1


def test_a_restart_ignores_what_is_there_without_a_word(tmp_path, said):
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    checkpoint.begin(MADE, False, said.append)
    checkpoint.write(0, a_band())
    checkpoint.begin(MADE, True, said.append)
    assert not checkpoint.has(0)
    assert said == []


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped"])
def test_a_damaged_band_is_none(tmp_path, said, damage):
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    checkpoint.begin(MADE, False, said.append)
    checkpoint.write(0, a_band())
    (file,) = (tmp_path / "checkpoint").glob("band-*")
    content = file.read_bytes()
    changed = {"cut": content[:-3], "empty": b"", "flipped": content[:-1] + b"\x99"}
    file.write_bytes(changed[damage])
    assert checkpoint.read(0) is None


def test_a_full_disk_is_said_and_leaves_no_half_band(tmp_path, said):
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    checkpoint.begin(MADE, False, said.append)
    checkpoint.write(0, a_band())
    resource = pytest.importorskip("resource", reason="limits of files are not for Windows")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))
    try:
        with pytest.raises(ProjectError, match="make room"):
            checkpoint.write(1, a_band(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert checkpoint.has(0)
    assert sorted(p.name for p in (tmp_path / "checkpoint").iterdir()) == [
        "band-00000",
        "made.json",
    ]


def test_it_is_gone_when_removed(tmp_path, said):
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    checkpoint.begin(MADE, False, said.append)
    checkpoint.remove()
    assert not (tmp_path / "checkpoint").exists()
    checkpoint.remove()


@pytest.fixture
def begun(tmp_path, said) -> Checkpoint:
    """Return a checkpoint that has one band."""
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    checkpoint.begin(MADE, False, said.append)
    checkpoint.write(0, a_band())
    return checkpoint


def rewrite(checkpoint: Checkpoint, **changes: object) -> None:
    path = checkpoint.folder / "made.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_one_of_another_version_is_begun_anew_and_that_is_said(begun, said):
    rewrite(begun, format=99)
    assert begun.begin(MADE, False, said.append) == MADE
    assert not begun.has(0)
    assert said == [
        "what an earlier run had begun is of another version of this program; it is begun anew"
    ]


@pytest.mark.parametrize("batch", [0, -1, None, "4"])
def test_a_batch_that_cannot_be_is_none(begun, said, batch):
    rewrite(begun, batch=batch)
    assert begun.begin(MADE, False, said.append) == MADE


def test_what_was_ended_before_its_first_band_goes_without_a_word(tmp_path, said):
    (tmp_path / "checkpoint").mkdir()
    Checkpoint(tmp_path / "checkpoint").begin(MADE, False, said.append)
    assert said == []


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_stands_in_its_place_is_named_and_left(tmp_path, said, kind):
    path, elsewhere = tmp_path / "checkpoint", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "band-00000").write_bytes(b"")
    (elsewhere / "made.json").write_text('{"format": 1, "batch": 1}')
    if kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(elsewhere)
    with pytest.raises(ProjectError, match=r"cannot make .*checkpoint anew .*take away what"):
        Checkpoint(path).begin(MADE, False, said.append)
    assert path.is_symlink() if kind == "link" else path.read_text() == "mine"
    assert (elsewhere / "band-00000").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_one_that_may_not_be_read_is_refused_and_kept(begun, said):
    description = begun.folder / "made.json"
    description.chmod(0)
    with pytest.raises(ProjectError, match=r"cannot read .*made.json .*allow this user"):
        begun.begin(MADE, False, said.append)
    description.chmod(0o600)
    begun.begin(MADE, False, said.append)
    assert begun.has(0)


def test_a_folder_taken_away_meanwhile_is_told(begun):
    shutil.rmtree(begun.folder)
    with pytest.raises(ProjectError, match=r"was taken away while .*run again"):
        begun.write(1, a_band())


def test_a_folder_in_place_of_a_band_is_named(begun):
    (begun.folder / "band-00001").mkdir()
    assert begun.read(1) is None
    with pytest.raises(ProjectError, match=r"cannot write .*band-00001 \(Is a directory\)"):
        begun.write(1, a_band())


def test_it_knows_whose_it_is(begun, tmp_path):
    assert begun.is_of(MADE["made"])
    assert not begun.is_of({"model": "other"})
    assert not Checkpoint(tmp_path / "none").is_of(MADE["made"])


def test_files_from_the_future_are_as_good_as_any(begun, said):
    for path in (begun.folder, *begun.folder.iterdir()):
        os.utime(path, (4e9, 4e9))
    begun.begin(MADE, False, said.append)
    assert begun.read(0) is not None and said == []
