"""The queue of jobs with a real child process: order, progress, cancelling, what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from jobs import (
    big_pixels,
    collection,
    feature,
    finished,
    image_body,
    path_of,
    segment_body,
    square,
    submit,
    wait_until,
)
from test_project_disk import files_of_at_most

from model.card import read_card
from model.home import models_home
from qupath_bridge.errors import (
    DiskFullError,
    ImagePathError,
    JobError,
    QueueFullError,
    RequestError,
    UnknownJobError,
)
from qupath_bridge.jobs import JobQueue, QueueSettings

LONG = 2048
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@pytest.fixture(scope="module")
def queue(tmp_path_factory, tiny_model) -> Iterator[JobQueue]:
    """Return a started queue with a warm child, shared by the tests of this module."""
    home = tmp_path_factory.mktemp("jobs")
    queue = JobQueue(QueueSettings(home, device="cpu", model=str(tiny_model)), path_of)
    queue.start()
    wait_until(lambda: queue.ready)
    yield queue
    queue.stop()


@pytest.fixture
def idle(tmp_path, tiny_model) -> Iterator[JobQueue]:
    """Return a queue that takes jobs and does none."""
    settings = QueueSettings(tmp_path / "home", model=str(tiny_model), longest_queue=3)
    queue = JobQueue(settings, path_of)
    yield queue
    queue.stop()


@pytest.fixture(scope="module")
def slide(tmp_path_factory, write_tiff) -> Path:
    """Return a slide that takes the tiny model long."""
    path = tmp_path_factory.mktemp("slides") / "long.tif"
    write_tiff(path, big_pixels(LONG), 0.5)
    return path


def long_body(slide: Path) -> dict:
    body = segment_body(slide, None, options={"regions": "slide"})
    body["image"] = image_body(slide, (LONG, LONG))
    return body


def short_body(slide: Path) -> dict:
    return segment_body(slide) | {"image": image_body(slide, (LONG, LONG))}


def child_of(queue: JobQueue) -> int:
    return queue._feeder._child.pid


def in_tiles(queue: JobQueue, job) -> bool:
    told = queue.job(job.id).as_json()
    return told["stage"] == "tiles" and told["tilesDone"] > 0


def test_jobs_are_done_in_their_order_and_tell_their_place_and_progress(queue, slide):
    first = submit(queue, long_body(slide))
    second, third = (submit(queue, short_body(slide)) for _ in range(2))
    wait_until(lambda: in_tiles(queue, first))
    told = queue.job(first.id).as_json()
    assert (told["state"], told["place"]) == ("running", 0)
    assert 0 < told["tilesDone"] < told["tilesTotal"] and told["secondsLeft"] >= 1
    assert [queue.job(j.id).place for j in (second, third)] == [1, 2]
    assert [j.id for j in queue.jobs()[:3]] == [third.id, second.id, first.id]
    assert [j.place for j in queue.jobs()[:3]] == [2, 1, 0]
    queue.cancel(first.id)
    done = [finished(queue, job) for job in (first, second, third)]
    assert [job.state for job in done] == ["cancelled", "done", "done"]
    assert done[0].finished <= done[1].started and done[1].finished <= done[2].started


def test_a_queued_job_is_cancelled_at_once_and_a_finished_one_stays(queue, slide):
    running, waiting = submit(queue, long_body(slide)), submit(queue, short_body(slide))
    assert queue.cancel(waiting.id).state == "cancelled"
    queue.cancel(running.id)
    assert finished(queue, running).state == "cancelled"
    done = finished(queue, submit(queue, short_body(slide)))
    assert queue.cancel(done.id) == done and done.state == "done"
    assert queue.job(waiting.id).started is None


def test_a_running_job_is_cancelled_within_two_seconds_and_the_child_is_kept(queue, slide):
    job = submit(queue, long_body(slide))
    wait_until(lambda: in_tiles(queue, job))
    child, began = child_of(queue), time.monotonic()
    queue.cancel(job.id)
    assert finished(queue, job).state == "cancelled"
    assert time.monotonic() - began < 2
    assert child_of(queue) == child
    assert not queue.folder(job.id).work.exists()


@posix
def test_a_child_that_hears_nothing_any_more_is_killed_within_two_seconds(queue, slide):
    job = submit(queue, long_body(slide))
    wait_until(lambda: in_tiles(queue, job))
    child = child_of(queue)
    os.kill(child, signal.SIGSTOP)  # as deep in a computation as can be
    began = time.monotonic()
    queue.cancel(job.id)
    assert finished(queue, job).state == "cancelled"
    assert time.monotonic() - began < 2
    assert finished(queue, submit(queue, short_body(slide))).state == "done"
    assert child_of(queue) != child


@posix
def test_a_child_that_dies_costs_one_job_and_says_so(queue, slide):
    job, next_one = submit(queue, long_body(slide)), submit(queue, short_body(slide))
    wait_until(lambda: in_tiles(queue, job))
    os.kill(child_of(queue), signal.SIGKILL)
    failed = finished(queue, job)
    assert failed.state == "failed" and failed.error.type == "WorkerError"
    assert "ended (killed by signal 9)" in failed.error.message
    assert "try a smaller region" in failed.error.message and "\n" not in failed.error.message
    assert finished(queue, next_one).state == "done"


@posix
def test_an_idle_child_that_dies_is_replaced_for_the_next_job(queue, slide):
    os.kill(child_of(queue), signal.SIGKILL)
    wait_until(lambda: not queue.ready)
    assert finished(queue, submit(queue, short_body(slide))).state == "done"


@posix
def test_a_full_disk_fails_the_job_and_the_queue_lives_on(queue, slide):
    import resource

    if not hasattr(resource, "prlimit"):
        pytest.skip("this system cannot limit another process")
    child = child_of(queue)
    before = resource.prlimit(child, resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    job = finished(queue, submit(queue, short_body(slide)))
    resource.prlimit(child, resource.RLIMIT_FSIZE, before)
    assert job.state == "failed", job
    assert "make room" in job.error.message and "File too large" in job.error.message
    assert [p.name for p in queue.folder(job.id).path.iterdir()] == ["request.json"]
    assert finished(queue, submit(queue, short_body(slide))).state == "done"


@posix
def test_a_job_that_the_disk_cannot_take_is_refused_and_leaves_nothing(idle, slide):
    submit(idle, short_body(slide))
    jobs = idle.jobs()
    many = collection(*(feature(n, square(n, n, 10)) for n in range(1000)))
    body = short_body(slide) | {"regions": many}
    with (
        pytest.raises(DiskFullError, match=r"cannot be kept in .*; make room"),
        files_of_at_most(9999),
    ):
        submit(idle, body)
    assert idle.jobs() == jobs
    assert [p.name for p in (idle._jobs).iterdir()] == [jobs[0].id]
    submit(idle, body)


def test_a_full_queue_and_unknown_jobs_models_heads_and_paths_are_told(idle, slide, tmp_path):
    with pytest.raises(RequestError, match=r"^there is no model 'nix'; there is: default"):
        submit(idle, short_body(slide) | {"model": "nix"})
    with pytest.raises(RequestError, match=r"^there is no model '\.\./\.\./x'"):
        submit(idle, short_body(slide) | {"model": "../../x"})
    with pytest.raises(RequestError, match=r"^model tiny has no head 'nix'; it has: first"):
        submit(idle, short_body(slide) | {"heads": ["nix"]})
    with pytest.raises(UnknownJobError, match="there is no job 'abc'"):
        idle.cancel("abc")
    for _ in range(3):
        submit(idle, short_body(slide))
    with pytest.raises(QueueFullError, match="3 jobs are waiting already; try again"):
        submit(idle, short_body(slide))
    assert len(list(idle._jobs.iterdir())) == 3

    def nowhere(uri: str) -> Path:
        raise ImagePathError(f"{uri} may not be opened")

    idle._resolve = nowhere
    with pytest.raises(ImagePathError):
        submit(idle, short_body(slide))


def test_only_one_process_has_a_folder_of_jobs(idle):
    with pytest.raises(
        JobError, match=rf"another server has the jobs in .*: process {os.getpid()} on"
    ):
        JobQueue(idle._settings, path_of)


def test_the_queue_is_safe_to_use_from_many_threads(idle, slide):
    idle._settings = replace(idle._settings, longest_queue=1000)
    taken: list[str] = []
    troubles: list[BaseException] = []

    def use() -> None:
        try:
            for _ in range(5):
                job = submit(idle, short_body(slide))
                taken.append(job.id)
                assert job.id in {other.id for other in idle.jobs()}
                idle.cancel(job.id)
        except BaseException as error:
            troubles.append(error)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert troubles == []
    assert sorted(job.id for job in idle.jobs()) == sorted(taken) and len(set(taken)) == 40
    assert {job.state for job in idle.jobs()} == {"cancelled"}


def test_a_stop_ends_the_child_and_puts_the_running_job_back(tmp_path, slide, tiny_model):
    settings = QueueSettings(tmp_path, device="cpu", model=str(tiny_model))
    queue = JobQueue(settings, path_of)
    queue.start()
    job, waiting = submit(queue, long_body(slide)), submit(queue, short_body(slide))
    wait_until(lambda: in_tiles(queue, job))
    child, began = queue._feeder._child, time.monotonic()
    queue.stop()
    assert time.monotonic() - began < 3
    assert child._process.poll() is not None
    again = JobQueue(settings, path_of)
    assert [(j.id, j.state, j.place) for j in again.jobs()] == [
        (waiting.id, "queued", 2),
        (job.id, "queued", 1),
    ]
    again.stop()


def test_annotations_become_a_head_that_the_next_job_uses(
    tmp_path, write_tiff, drawn_pixels, installed_tiny
):
    image = tmp_path / "bild.tif"
    write_tiff(image, drawn_pixels, 0.5)
    six = [(x, y) for x in (20, 240, 460) for y in (20, 300)]
    drawn = collection(
        *(
            feature(n, square(x, y, 90), "Tumor" if n % 2 else "Stroma")
            for n, (x, y) in enumerate(six)
        )
    )
    body = {"kind": "train", "image": image_body(image), "regions": drawn, "model": "mine",
            "heads": ["bed"], "options": {"base": "tiny", "steps": 4}}  # fmt: skip
    queue = JobQueue(QueueSettings(tmp_path / "home", device="cpu"), path_of)
    queue.start()
    try:
        job = finished(queue, submit(queue, body))
        assert job.state == "done", job.error
        result = job.as_json()["result"]
        assert (result["model"], result["head"]) == ("mine", "bed")
        assert (result["trainImages"], result["heldOutImages"]) == (5, 1)
        assert 0 <= result["meanDice"] <= 1
        assert job.as_json()["links"]["overlay"] is None
        head = read_card(models_home() / "mine").heads["bed"]
        assert head.training["asked by"] == job.id
        assert head.training["data"] == "6 annotations in 1 images"
        used = submit(queue, segment_body(image, model="mine", heads=["bed"]))
        assert finished(queue, used).state == "done"
        nothing = body | {"regions": collection(feature(1, square(0, 0, 50), "Ignore*"))}
        failed = finished(queue, submit(queue, nothing))
        assert failed.error.message.startswith("there is no annotation to learn from; draw some")
        assert len(failed.warnings) == 1
    finally:
        queue.stop()


def test_a_child_that_cannot_start_fails_the_job_with_its_last_words(tmp_path, slide):
    queue = JobQueue(QueueSettings(tmp_path, device="warp"), path_of)
    queue.start()
    try:
        job = finished(queue, submit(queue, short_body(slide)))
        assert job.state == "failed" and job.error.type == "WorkerError"
        assert "cannot be started (" in job.error.message
        assert "unknown device 'warp'; use auto, cpu" in job.error.message
    finally:
        queue.stop()


def test_what_is_told_is_json(queue, slide):
    job = finished(queue, submit(queue, short_body(slide)))
    assert json.loads(json.dumps(job.as_json(), allow_nan=False)) == job.as_json()
