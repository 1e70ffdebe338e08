"""Old results are cleared by age and by size; what is waiting or runs never is."""

from __future__ import annotations

import datetime
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from jobs import path_of, segment_body, submit

from qupath_bridge.jobs import JobQueue, QueueSettings

MIB = 2**20


@pytest.fixture
def settings(tmp_path, tiny_model) -> QueueSettings:
    return QueueSettings(tmp_path / "home", model=str(tiny_model), keep_days=10, keep_gib=3 / 1024)


def made(settings: QueueSettings, states: list[str], ages_days: list[float]) -> list[str]:
    """Return jobs of these states that finished so long ago, a mebibyte each."""
    queue = JobQueue(settings, path_of)
    ids = []
    for state in states:
        job = submit(queue, segment_body("/a.tif"))
        ids.append(job.id)
        if state != "queued":
            queue._store.begin(job.id)
        if state not in ("queued", "running"):
            queue._store.finish(job.id, state, MIB)
    queue.stop()
    with sqlite3.connect(settings.home / "jobs.sqlite3") as base:
        for job_id, age in zip(ids, ages_days, strict=True):
            then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=age)
            base.execute(
                "UPDATE jobs SET finished = ?, created = ? WHERE id = ?",
                (then.isoformat(timespec="milliseconds")[:-6] + "Z", then.isoformat(), job_id),
            )
    base.close()
    return ids


def left(settings: QueueSettings) -> list[str]:
    """Return the jobs that a server finds, oldest first, and check that folders are theirs."""
    queue = JobQueue(settings, path_of)
    ids = [job.id for job in queue.jobs()][::-1]
    queue.stop()
    folders = {path.name for path in Path(settings.home / "jobs").iterdir()}
    assert folders == set(ids)
    return ids


def test_what_is_too_old_goes(settings):
    ids = made(settings, ["done", "failed", "cancelled", "done"], [11, 10.5, 9, 1])
    assert left(settings) == ids[2:]


def test_of_too_much_the_oldest_goes(settings):
    ids = made(settings, ["done"] * 5, [1, 3, 2, 0.5, 0.1])
    assert left(settings) == [ids[0], ids[3], ids[4]]


def test_what_waits_or_runs_stays_however_old_it_is(settings):
    ids = made(settings, ["queued", "done", "running", "done"], [99, 98, 97, 96])
    assert left(settings) == [ids[0], ids[2]]


def test_for_ever_is_a_long_time(settings):
    ids = made(settings, ["done"], [3000])
    assert left(replace(settings, keep_days=1e12)) == ids
