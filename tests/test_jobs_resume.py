"""A job goes on where a server that ended had left it, and leaves no checkpoint in the end."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tifffile
from jobs import big_pixels, finished, image_body, path_of, segment_body, submit, wait_until
from test_jobs_death import SERVER, kill

from qupath_bridge.jobs import Job, JobQueue, QueueSettings

SIDE, STORED = 768, 16
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


def write_slide(path: Path, damaged: int) -> Path:
    """Write a slide of which a row of stored tiles, so many, cannot be decoded."""
    stored = {"tile": (STORED, STORED), "compression": "jpeg", "resolutionunit": 3}
    tifffile.imwrite(path, big_pixels(SIDE), photometric="rgb", resolution=(2e4, 2e4), **stored)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        first = 10 * (SIDE // STORED)
        places = [
            (page.dataoffsets[n], page.databytecounts[n]) for n in range(first, first + damaged)
        ]
    with path.open("r+b") as file:
        for offset, count in places:
            file.seek(offset)
            file.write(b"\x07" * count)
    return path


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "a.tif", damaged=1)


@pytest.fixture(scope="module")
def sound(tmp_path_factory, tiny_model) -> QueueSettings:
    """Return the settings of a server to which nothing happens."""
    return QueueSettings(tmp_path_factory.mktemp("home"), device="cpu", model=str(tiny_model))


@pytest.fixture(scope="module")
def queue(sound) -> Iterator[JobQueue]:
    queue = JobQueue(sound, path_of)
    queue.start()
    yield queue
    queue.stop()


@pytest.fixture(scope="module")
def whole(queue, sound, slide) -> dict[str, bytes]:
    """Return what an uninterrupted job leaves."""
    job = finished(queue, submit(queue, body_of(slide)))
    assert job.state == "done", job.error
    (warning,) = job.warnings
    assert "tiles could not be decoded and were left without a class" in warning
    assert warning[0] != "0"
    return left_by(sound, job)


@pytest.fixture
def settings(tmp_path, tiny_model) -> QueueSettings:
    return QueueSettings(tmp_path / "home", device="cpu", model=str(tiny_model))


def body_of(slide: Path) -> dict:
    body = segment_body(slide, None, options={"regions": "slide", "overlap": 0.5})
    return body | {"image": image_body(slide, (SIDE, SIDE))}


def left_by(settings: QueueSettings, job: Job) -> dict[str, bytes]:
    """Return all files of a job's result, and that nothing else is left of it."""
    folder = settings.home / "jobs" / job.id
    assert not (folder / "checkpoint").exists() and not (folder / "result.tmp").exists()
    found = {p.name: p.read_bytes() for p in (folder / "result").iterdir()}
    return found | {"detections.geojson.gz": gzip.decompress(found["detections.geojson.gz"])}


def bands(settings: QueueSettings, job: Job) -> dict[str, int]:
    """Return the names of a job's finished bands, each with what tells its file from another."""
    folder = settings.home / "jobs" / job.id / "checkpoint"
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("band-*")}


def comes_further(settings: QueueSettings, queue: JobQueue, job: Job) -> None:
    """See that a job goes on, and keeps the bands that are there."""
    kept = bands(settings, job)
    assert kept and queue.job(job.id).state == "queued"
    queue.start()
    more = wait_until(lambda: len(now := bands(settings, job)) > len(kept) and now)
    assert kept.items() <= more.items()


@posix
def test_after_kill_9_and_after_an_orderly_stop_a_job_goes_on(settings, slide, whole):
    queue = JobQueue(settings, path_of)
    job = submit(queue, body_of(slide))
    queue.stop()
    command = [sys.executable, str(SERVER), str(settings.home), settings.model]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        wait_until(lambda: bands(settings, job))
    finally:
        kill(server)
    queue = JobQueue(settings, path_of)
    try:
        comes_further(settings, queue, job)
    finally:
        queue.stop()
    assert bands(settings, job)
    queue = JobQueue(settings, path_of)
    try:
        queue.start()
        assert finished(queue, job).state == "done"
    finally:
        queue.stop()
    assert left_by(settings, job) == whole


def checkpoint_of(queue: JobQueue, job: Job) -> Path:
    return queue.folder(job.id).checkpoint


def test_a_cancelled_job_leaves_no_checkpoint(queue, sound, slide):
    job = submit(queue, body_of(slide))
    wait_until(lambda: bands(sound, job))
    queue.cancel(job.id)
    assert finished(queue, job).state == "cancelled"
    assert not checkpoint_of(queue, job).exists()


def test_a_damaged_slide_fails_the_job_with_how_many_tiles_and_leaves_no_checkpoint(
    queue, tmp_path
):
    job = submit(queue, body_of(write_slide(tmp_path / "b.tif", damaged=20)))
    job = finished(queue, job)
    assert job.state == "failed"
    assert "tiles could not be decoded, more than 1%; copy the file again" in job.error.message
    assert not checkpoint_of(queue, job).exists()


@pytest.mark.parametrize("what", ["cancelled", "done", "failed"])
def test_what_a_dead_server_left_of_a_job_goes_when_the_job_ends(settings, slide, what):
    queue = JobQueue(settings, path_of)
    job = submit(queue, body_of(slide))
    folder = queue.folder(job.id)
    queue._store.begin(job.id)
    if what == "failed":
        queue._store.requeue(job.id, deaths=2)
        queue._store.begin(job.id)
    queue.stop()
    folder.checkpoint.mkdir()
    (folder.checkpoint / "made.json").write_text("{}")
    if what == "done":
        folder.begin_result()
        folder.keep_result({"result": {}, "warnings": []})
    queue = JobQueue(settings, path_of)
    try:
        if what == "cancelled":
            assert folder.checkpoint.exists()  # the job is to go on
            queue.cancel(job.id)
        assert queue.job(job.id).state == what
        assert not folder.checkpoint.exists()
    finally:
        queue.stop()


def test_a_job_that_comes_further_from_death_to_death_is_not_given_up(settings, slide):
    queue = JobQueue(settings, path_of)
    job = submit(queue, body_of(slide))
    folder = queue.folder(job.id)
    folder.checkpoint.mkdir()
    for band in range(5):
        (folder.checkpoint / f"band-{band:05d}").write_bytes(b"")
        queue._store.begin(job.id)
        queue.stop()
        queue = JobQueue(settings, path_of)
        assert queue.job(job.id).state == "queued"
    for state in ("queued", "queued", "failed"):
        queue._store.begin(job.id)
        queue.stop()
        queue = JobQueue(settings, path_of)
        assert queue.job(job.id).state == state
    queue.stop()
