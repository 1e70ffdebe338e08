"""Two runs on one project: the second is told who is at it; a killed one is in nobody's way."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qupath_bridge.errors import ProjectError
from qupath_bridge.lock import ProcessLock
from qupath_bridge.project_lock import NAME, writing

HOLDER = """
import os, sys
from pathlib import Path
from qupath_bridge.project_lock import writing
with writing(Path(sys.argv[1]), print):
    child = os.fork() if "fork" in sys.argv else None
    if child != 0:
        print("holds", child, flush=True)
    sys.stdin.read()
"""
Start = Callable[..., subprocess.Popen]
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such calls")


@pytest.fixture(autouse=True)
def tiny(sure_model, monkeypatch) -> None:
    """Let a tiny model be the one that is used where no other is named."""
    monkeypatch.setenv("QUPATH_PATHSEGDIFF_MODEL", str(sure_model))


@pytest.fixture
def holder_of() -> Iterator[Start]:
    """Return a function that starts a process which holds a project's lock."""
    started: list[subprocess.Popen] = []

    def start(folder: Path, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLDER, str(folder), *arguments]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def run_command(project: Path, *arguments: str) -> list[str]:
    options = ["--backend", "portable", "--device", "cpu", *arguments]
    return [sys.executable, "-m", "qupath_bridge", "run", str(project), *options]


def told_by(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_second_run_is_told_who_is_at_it_and_the_next_goes_when_that_was_killed(small_project):
    whole = ("--regions", "slide", "--overlap", "0.75")
    slow = run_command(small_project, "--batch-size", "1", *whole)
    with subprocess.Popen(slow, stderr=subprocess.PIPE, text=True) as first:
        for line in first.stderr:
            if line.startswith("[1/1]"):
                break
        second = told_by(run_command(small_project))
        first.kill()
        first.communicate()
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1].startswith("error: ")
    assert f"written by process {first.pid} on {socket.gethostname()}, since 20" in second.stderr
    assert re.search(r"\(\S*python\S* -m qupath_bridge run .*--batch-size 1", second.stderr)
    assert "tiles" not in second.stderr and "Traceback" not in second.stderr
    third = told_by(run_command(small_project))
    assert third.returncode == 0, third.stderr
    assert third.stdout.splitlines()[-1] == "1 done / 0 skipped / 0 failed"


def test_suggestions_wait_too_and_who_only_reads_does_not(small_project, holder_of):
    assert told_by(run_command(small_project)).returncode == 0
    holder = holder_of(small_project.parent)
    assert holder.stdout.readline().startswith("holds")
    program = [sys.executable, "-m", "qupath_bridge"]
    suggest = told_by([*program, "suggest", str(small_project), "--backend", "portable"])
    assert suggest.returncode == 1 and f"process {holder.pid} on" in suggest.stderr
    assert told_by(run_command(small_project, "--dry-run")).returncode == 0
    assert told_by([*program, "export", str(small_project)]).returncode == 0


@posix
@pytest.mark.parametrize("last_signal", ["SIGKILL", "SIGTERM"])
def test_a_killed_holder_blocks_nobody_and_is_not_named_again(tmp_path, holder_of, last_signal):
    for _ in range(5):
        holder = holder_of(tmp_path)
        assert holder.stdout.readline().startswith("holds")
        with (
            pytest.raises(ProjectError, match=f"process {holder.pid} on"),
            writing(tmp_path, print),
        ):
            pytest.fail("two at once")
        holder.send_signal(getattr(signal, last_signal))
        holder.wait()
        with writing(tmp_path, print):
            note = ProcessLock(tmp_path / "pathsegdiff" / NAME).holder()
            assert note.pid == os.getpid()


@posix
def may_write(folder: Path) -> bool:
    try:
        with writing(folder, print):
            return True
    except ProjectError:
        return False


def test_a_child_that_outlives_a_killed_holder_does_not_keep_the_lock(tmp_path, holder_of):
    holder = holder_of(tmp_path, "fork")
    child = int(holder.stdout.readline().split()[1])
    holder.kill()
    holder.wait()
    os.kill(child, 0)  # it lives, and lets go as soon as it runs at all
    end = time.monotonic() + 30
    while not may_write(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)


def test_of_many_that_start_at_once_one_writes(tmp_path, holder_of):
    (tmp_path / "pathsegdiff").mkdir()
    with writing(tmp_path, print):
        early = [holder_of(tmp_path) for _ in range(3)]
        assert [process.wait() for process in early] == [1, 1, 1]
    many = [holder_of(tmp_path) for _ in range(5)]
    end = time.monotonic() + 60
    while sum(process.poll() is None for process in many) > 1 and time.monotonic() < end:
        time.sleep(0.05)
    assert sorted(process.poll() is None for process in many) == [False] * 4 + [True]


def test_who_has_ended_is_no_longer_named(tmp_path):
    with writing(tmp_path, print):
        note = json.loads((tmp_path / "pathsegdiff" / f"{NAME}.json").read_text(encoding="utf-8"))
        assert (note["pid"], note["host"]) == (os.getpid(), socket.gethostname())
    assert [p.name for p in (tmp_path / "pathsegdiff").iterdir()] in ([], [NAME])


def test_a_holder_without_a_note_is_told_of(tmp_path, holder_of):
    holder = holder_of(tmp_path)
    assert holder.stdout.readline().startswith("holds")
    note = tmp_path / "pathsegdiff" / f"{NAME}.json"
    for content in ("", "{}", "[1]", '{"pid": 1}', "\xff"):
        note.write_text(content, encoding="latin-1")
        with pytest.raises(ProjectError, match="left no note"), writing(tmp_path, print):
            pytest.fail("two at once")


@posix
@pytest.mark.parametrize("code", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_told_and_the_run_goes_on(tmp_path, monkeypatch, code):
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said: list[str] = []
    for _ in range(2):
        with writing(tmp_path, said.append):
            (tmp_path / "pathsegdiff" / "written").write_text("")
    assert len(said) == 2
    assert "has no locks" in said[0] and os.strerror(getattr(errno, code)) in said[0]


def test_what_stands_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "pathsegdiff").write_text("")
    with (
        pytest.raises(ProjectError, match=r"cannot write into .*pathsegdiff"),
        writing(tmp_path, print),
    ):
        pytest.fail("there is no folder")


def test_a_failure_within_lets_the_next_begin(tmp_path):
    with pytest.raises(OSError, match="no such slide"), writing(tmp_path, print):
        raise OSError("no such slide")
    with writing(tmp_path, print):
        pass
