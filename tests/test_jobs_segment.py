"""Segmentations as jobs, by real child processes: what comes out, what is told, what fails."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from jobs import collection, feature, finished, image_body, path_of, segment_body, square, submit
from PIL import Image

from qupath_bridge.featurecollection import read_detections
from qupath_bridge.jobs import JobQueue, QueueSettings
from qupath_bridge.measurements import read_class_areas
from qupath_bridge.pipeline import run_project
from qupath_bridge.progress import LineReporter
from qupath_bridge.settings import RunSettings
from qupath_bridge.store import ResultStore


@pytest.fixture(scope="module")
def queue(tmp_path_factory, tiny_model) -> Iterator[JobQueue]:
    """Return a started queue with a warm child, shared by the tests of this module."""
    home = tmp_path_factory.mktemp("jobs ä 🔬")
    queue = JobQueue(QueueSettings(home, device="cpu", model=str(tiny_model)), path_of)
    queue.start()
    yield queue
    queue.stop()


@pytest.fixture(scope="module")
def slide(tmp_path_factory, write_tiff, drawn_pixels) -> Path:
    """Return a drawn slide of 640 x 512 px."""
    path = tmp_path_factory.mktemp("bilder") / "bild ü 1.tif"
    write_tiff(path, drawn_pixels, 0.5)
    return path


def ran(project: Path, tiny_model: Path, **settings) -> ResultStore:
    """Return what `run` makes of a project."""
    chosen = RunSettings(backend="portable", device="cpu", model=str(tiny_model), **settings)
    with Path(os.devnull).open("w") as nowhere:
        report = run_project(project, chosen, LineReporter(nowhere))
    assert not report.failed, report.summary()
    return ResultStore(project.parent)


def width_of(picture: Path) -> int:
    with Image.open(picture) as opened:
        return opened.size[0]


@pytest.mark.parametrize("mode", ["annotations", "tissue", "slide"])
def test_a_job_gives_the_very_objects_of_a_run(queue, small_project, tiny_model, mode):
    store = ran(small_project, tiny_model, regions=mode, min_object_um2=20.0)
    regions = json.loads((store.of("1") / "regions.geojson").read_text())
    body = segment_body(small_project.parent / "bild ä.tif", regions)
    body["options"] = {"regions": mode, "minObjectUm2": 20}
    body["image"]["entryID"] = "1"
    job = finished(queue, submit(queue, body))
    assert job.state == "done", job.error
    folder = queue.folder(job.id)

    ours, theirs = read_detections(folder.detections), store.read_detections("1")
    assert [asdict(d) for d in ours] == [asdict(d) for d in theirs]
    with gzip.open(folder.detections) as packed:
        assert packed.read() == store.detections_path("1").read_bytes()
    assert folder.table.read_bytes().splitlines()[1:] == [
        line.replace(b"image 1", "bild ä.tif".encode())
        for line in store.table.read_bytes().splitlines()[1:]
    ]
    assert job.result["objects"] == len(ours) > 0


def test_a_finished_job_tells_areas_measurements_and_has_a_picture(queue, slide):
    two = collection(feature(1, square(40, 40, 100)), feature(2, square(300, 200, 140)))
    job = finished(queue, submit(queue, segment_body(slide, two)))
    assert (job.state, job.place, job.error, job.warnings) == ("done", None, None, ())
    told = job.as_json()
    assert told["links"]["classAreas"] == f"/v1/jobs/{job.id}/class-areas"
    assert told["model"] == "tiny" and told["heads"] == ["first"]
    assert told["started"] <= told["finished"] and told["stage"] is None

    folder = queue.folder(job.id)
    rows = read_class_areas(folder.table)
    areas = json.loads(folder.class_areas.read_text(encoding="utf-8"))
    assert [round(r["areaUm2"], 3) for r in areas["rows"]] == [r.area_um2 for r in rows]
    ids = {r.region_id for r in rows}
    assert set(areas["measurements"]) == ids and len(ids) == 2
    assert set(areas["regionIds"]) == ids | {"tissue", "slide"}
    names = {name for values in areas["measurements"].values() for name in values}
    assert "PathSegDiff: Tumor area µm^2" in names and "PathSegDiff: Tumor %" in names
    total = sum(c["percent"] for c in told["result"]["classes"])
    assert total == pytest.approx(100, abs=0.5)
    assert told["result"]["regions"] == 2

    assert 300 < width_of(folder.overlay) <= 1200
    assert not list(folder.path.glob("*.tmp*"))


def test_the_picture_of_a_large_region_is_at_most_1200_wide(queue, tmp_path, write_tiff):
    write_tiff(tmp_path / "wide.tif", np.full((200, 3000, 3), 200, np.uint8), 0.5)
    body = segment_body(tmp_path / "wide.tif", collection(feature(1, square(0, 0, 90))))
    body["image"] |= {"width": 3000, "height": 200}
    body["regions"]["features"].append(feature(2, square(2890, 100, 90)))
    job = finished(queue, submit(queue, body))
    assert job.state == "done", job.error
    assert width_of(queue.folder(job.id).overlay) == 1200


def test_no_regions_mean_the_tissue(queue, slide):
    job = finished(queue, submit(queue, segment_body(slide, None)))
    areas = json.loads(queue.folder(job.id).class_areas.read_text(encoding="utf-8"))
    assert {r["regionId"] for r in areas["rows"]} == {"tissue"} and areas["measurements"] == {}


def test_a_crossing_region_is_repaired_and_one_outside_left_out_with_a_warning(queue, slide):
    bow_tie = [[40, 40], [140, 140], [140, 40], [40, 140], [40, 40]]
    outside = feature(2, square(9000, 9000, 50))
    job = finished(
        queue, submit(queue, segment_body(slide, collection(feature(1, bow_tie), outside)))
    )
    assert job.state == "done"
    assert job.warnings == (
        'annotation "Region 1" crosses or touches itself and was repaired',
        'annotation "Region 2" was left out: it lies outside of the image',
    )


def failed(queue: JobQueue, body: dict) -> tuple[str, str]:
    """Return the type and the sentence with which a job fails."""
    job = finished(queue, submit(queue, body))
    assert job.state == "failed" and job.result is None
    assert job.as_json()["links"]["detections"] is None
    return job.error.type, job.error.message


def test_only_regions_outside_of_the_image_fail_with_the_reason(queue, slide):
    kind, message = failed(queue, segment_body(slide, collection(feature(1, square(9e3, 0, 50)))))
    assert kind == "RegionError"
    assert 'no area annotation to segment (annotation "Region 1" was left out: it lies' in message


def test_an_image_replaced_between_two_jobs_is_told(queue, tmp_path, slide, write_tiff):
    path = tmp_path / "a.tif"
    shutil.copy(slide, path)
    assert finished(queue, submit(queue, segment_body(path))).state == "done"
    write_tiff(path, np.full((300, 400, 3), 200, np.uint8), 0.5)
    kind, message = failed(queue, segment_body(path))
    assert kind == "SlideError"
    assert "is 400 x 300 pixels" in message and "640 x 512" in message and str(path) in message


def test_a_missing_or_broken_image_is_told_with_its_path(queue, tmp_path):
    kind, message = failed(queue, segment_body(tmp_path / "gone.svs"))
    assert kind == "SlideError" and f"{tmp_path / 'gone.svs'} is not there" in message
    (tmp_path / "text.svs").write_text("no image")
    assert (
        "text.svs is no image that can be read"
        in failed(queue, segment_body(tmp_path / "text.svs"))[1]
    )


def test_the_pixel_size_of_the_file_serves_and_none_at_all_is_to_be_set_in_qupath(
    queue, tmp_path, slide
):
    body = segment_body(slide)
    body["image"]["pixelSizeMicrons"] = None
    assert finished(queue, submit(queue, body)).state == "done"
    Image.fromarray(np.full((512, 640, 3), 200, np.uint8)).save(tmp_path / "none.png")
    body = segment_body(tmp_path / "none.png")
    body["image"]["pixelSizeMicrons"] = None
    kind, message = failed(queue, body)
    assert kind == "PixelSizeError"
    assert message.endswith("none.png has no pixel size; set it in QuPath (Image tab, double-click"
                            " the pixel size)")  # fmt: skip


def test_the_same_job_twice_gives_the_same_bytes(queue, slide):
    first = finished(queue, submit(queue, segment_body(slide)))
    again = finished(queue, submit(queue, segment_body(slide)))
    assert queue.folder(first.id).detections.read_bytes() == (
        queue.folder(again.id).detections.read_bytes()
    )
    assert queue.ready and queue.device == "cpu"


def test_an_image_of_oblong_pixels_is_taken(queue, slide):
    body = segment_body(slide)
    body["image"] = image_body(slide, pixelSizeMicrons={"w": 0.5, "h": 0.25})
    assert finished(queue, submit(queue, body)).state == "done"
