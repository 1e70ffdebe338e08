"""Folders found unfit before work begins; files replaced whole or not at all."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qupath_bridge.disk import check_writable, replacing
from qupath_bridge.errors import ProjectError


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Let the system refuse to write more, as a full disk does."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_writable_folder_with_room_passes_and_is_left_empty(tmp_path: Path) -> None:
    check_writable(tmp_path, 1000)
    check_writable(tmp_path / "not" / "yet", 1000)
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_found_before_work_begins(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"MiB free, but .* MiB are needed; make room"):
        check_writable(tmp_path, 2**62)


def test_a_folder_that_cannot_be_written_is_found_before_work_begins(tmp_path: Path) -> None:
    if os.geteuid() == 0 and not Path("/proc/self").exists():
        pytest.skip("an administrator can write everywhere")
    folder = tmp_path
    if os.geteuid() == 0:
        folder = Path("/proc/self")
    else:
        tmp_path.chmod(0o555)
    with pytest.raises(ProjectError, match=f"cannot write into {folder} "):
        check_writable(folder, 1)


def test_a_file_where_the_folder_should_be_is_found_before_work_begins(tmp_path: Path) -> None:
    (tmp_path / "pathsegdiff").write_text("in the way")
    with pytest.raises(ProjectError, match="cannot write into"):
        check_writable(tmp_path / "pathsegdiff" / "1", 1)


def test_a_file_is_replaced_whole_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "ä 😀.json"
    path.write_text("old")
    path.chmod(0o640)
    with replacing(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_whatever_goes_wrong_the_old_file_stays(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "data"
    path.write_text("old")
    with pytest.raises((error, ProjectError)), replacing(path) as beside:
        beside.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits on files")
def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("old")
    with (
        pytest.raises(ProjectError, match=r"cannot write .*data \(.*\); it was left as it is"),
        files_of_at_most(1000),
        replacing(path) as beside,
    ):
        beside.write_bytes(bytes(10_000))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
