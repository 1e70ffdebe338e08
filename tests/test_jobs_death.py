"""The server is killed at any moment: no job is lost, none done twice, all finish after all."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobs import (
    big_pixels,
    finished,
    image_body,
    path_of,
    segment_body,
    submit,
    wait_until,
)

from qupath_bridge.errors import JobError
from qupath_bridge.jobs import JobQueue, QueueSettings
from qupath_bridge.jobs.child import LOCK
from qupath_bridge.lock import ProcessLock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
SERVER = Path(__file__).parent / "job_server.py"
SIDE = 640
TWENTY = pytest.param(
    20,
    marks=[
        pytest.mark.slow,
        pytest.mark.timeout(1800),
        pytest.mark.skipif(not os.environ.get("PATHSEGDIFF_SLOW"), reason="PATHSEGDIFF_SLOW=1"),
    ],
)


@pytest.fixture(scope="module")
def slide(tmp_path_factory, write_tiff) -> Path:
    path = tmp_path_factory.mktemp("slides") / "a.tif"
    write_tiff(path, big_pixels(SIDE), 0.5)
    return path


@pytest.fixture
def settings(tmp_path, tiny_model) -> QueueSettings:
    return QueueSettings(tmp_path / "home", device="cpu", model=str(tiny_model))


def body_of(slide: Path) -> dict:
    body = segment_body(slide, None, options={"regions": "slide"})
    return body | {"image": image_body(slide, (SIDE, SIDE))}


@pytest.fixture
def server_of() -> Iterator:
    """Return a function that starts a process which holds a queue."""
    started: list[subprocess.Popen] = []

    def start(settings: QueueSettings) -> subprocess.Popen:
        command = [sys.executable, str(SERVER), str(settings.home), settings.model]
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        started.append(server)
        assert server.stdout.readline() == b"started\n"
        return server

    yield start
    for server in started:
        kill(server)


def kill(server: subprocess.Popen) -> None:
    server.kill()
    server.wait()
    server.stdout.close()


def queued(settings: QueueSettings, slide: Path, count: int) -> list[str]:
    """Queue jobs, and return their ids."""
    queue = JobQueue(settings, path_of)
    try:
        return [submit(queue, body_of(slide)).id for _ in range(count)]
    finally:
        queue.stop()


def state_of(settings: QueueSettings) -> dict[str, str]:
    """Return the states of all jobs, while no server runs."""
    queue = JobQueue(settings, path_of)
    try:
        return {job.id: job.state for job in queue.jobs()}
    finally:
        queue.stop()


def stamps(settings: QueueSettings) -> dict[str, int]:
    """Return when each result that is there was put in place."""
    found = settings.home.glob("jobs/*/result/summary.json")
    return {path.parent.parent.name: path.stat().st_ino for path in found}


def child_has_ended(settings: QueueSettings) -> bool:
    lock = ProcessLock(settings.home / LOCK)
    try:
        return lock.take()
    finally:
        lock.release()


def wait_for_moment(settings: QueueSettings, rng: random.Random) -> None:
    """Wait until the server starts, or computes, or writes a result, and then a little."""
    before, kind = len(stamps(settings)), rng.choice(["starts", "computes", "writes"])
    if kind == "computes":
        wait_until(lambda: not child_has_ended(settings))
    if kind == "writes":
        writes = settings.home.glob
        wait_until(lambda: [*writes("jobs/*/result.tmp")] or len(stamps(settings)) > before)
    time.sleep(rng.random() * (0.05 if kind == "writes" else 1.5))


@pytest.mark.parametrize("deaths", [3, TWENTY])
def test_killed_at_random_moments_the_server_loses_no_job_and_does_none_twice(
    settings, slide, server_of, deaths
):
    rng = random.Random(4)
    jobs = queued(settings, slide, 3)
    done: dict[str, int] = {}
    for _ in range(deaths):
        idle = not {"queued", "running"} & set(state_of(settings).values())
        if idle:
            jobs += queued(settings, slide, 2)
        server = server_of(settings)
        wait_for_moment(settings, rng)
        kill(server)
        now = stamps(settings)
        assert all(now[job] == stamp for job, stamp in done.items()), "done twice"
        done = now
    queue = JobQueue(settings, path_of)
    try:
        assert sorted(job.id for job in queue.jobs()) == sorted(jobs)
        queue.start()
        states = [finished(queue, job).state for job in queue.jobs()]
        # A job at whose every start the server died is given up after the third time.
        assert states.count("done") + states.count("failed") == len(jobs)
        assert states.count("failed") <= deaths // 3
        assert {s: done[s] for s in done} == {s: stamps(settings)[s] for s in done}
    finally:
        queue.stop()


def test_the_child_of_a_killed_server_ends_though_it_computes(settings, slide, server_of):
    queued(settings, slide, 1)
    server = server_of(settings)
    wait_until(lambda: not child_has_ended(settings))
    kill(server)
    began = time.monotonic()
    wait_until(lambda: child_has_ended(settings), 10)
    assert time.monotonic() - began < 3


def test_a_child_that_a_killed_server_left_hanging_is_ended_by_the_next(settings, slide, server_of):
    (job,) = queued(settings, slide, 1)
    server = server_of(settings)
    wait_until(lambda: not child_has_ended(settings))
    child = wait_until(ProcessLock(settings.home / LOCK).holder).pid
    os.kill(child, signal.SIGSTOP)
    kill(server)
    queue = JobQueue(settings, path_of)
    queue.start()
    try:
        assert finished(queue, queue.job(job)).state == "done"
    finally:
        queue.stop()
    with pytest.raises(ProcessLookupError):
        wait_until(lambda: os.kill(child, 0), 1)


def left_running(settings: QueueSettings, slide: Path) -> str:
    """Return a job that a server which died had begun."""
    queue = JobQueue(settings, path_of)
    job = submit(queue, body_of(slide))
    queue._store.begin(job.id)
    queue.stop()
    return job.id


def test_a_job_that_saw_three_servers_die_fails_and_says_so(settings, slide):
    job_id = left_running(settings, slide)
    for _ in range(2):
        queue = JobQueue(settings, path_of)
        assert queue.job(job_id).state == "queued"
        queue._store.begin(job_id)
        queue.stop()
    queue = JobQueue(settings, path_of)
    job = queue.job(job_id)
    queue.stop()
    assert job.state == "failed"
    assert job.error.message.startswith("the server ended unexpectedly 3 times while it did this")


def test_a_result_that_was_in_place_when_the_server_died_counts(settings, slide):
    job_id = left_running(settings, slide)
    result = settings.home / "jobs" / job_id / "result"
    result.mkdir()
    told = {"result": {"objects": 3}, "warnings": ["so so"]}
    (result / "summary.json").write_text(json.dumps(told))
    queue = JobQueue(settings, path_of)
    job = queue.job(job_id)
    queue.stop()
    assert (job.state, job.result, job.warnings) == ("done", {"objects": 3}, ("so so",))


def test_a_cancel_is_not_forgotten_when_the_server_dies_before_it_is_done(settings, slide):
    job_id = left_running(settings, slide)
    queue = JobQueue(settings, path_of)
    queue._store.begin(job_id)
    assert queue.cancel(job_id).state == "running"
    queue.stop()
    assert state_of(settings) == {job_id: "cancelled"}


def test_a_folder_without_a_job_is_cleared(settings, slide):
    (job_id,) = queued(settings, slide, 1)
    (settings.home / "jobs" / "0123").mkdir()
    assert state_of(settings) == {job_id: "queued"}
    assert [p.name for p in (settings.home / "jobs").iterdir()] == [job_id]


def test_a_damaged_list_of_jobs_is_told(settings):
    settings.home.mkdir()
    (settings.home / "jobs.sqlite3").write_bytes(b"no database at all, " * 100)
    with pytest.raises(JobError, match=r"jobs.sqlite3 is damaged \(.*\); move it away"):
        JobQueue(settings, path_of)
