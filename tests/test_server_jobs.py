"""Jobs over HTTP, from a request to the objects, by a real server and its computing process."""

import gzip
import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import pytest
import schemathesis
from server_process import segment_body, serving, wait_until


def annotation(number: int, x: float, y: float, side: float = 100) -> dict:
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    return {
        "type": "Feature",
        "id": f"00000000-0000-4000-8000-{number:012d}",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "name": f"Region {number}"},
    }


REGIONS = {
    "type": "FeatureCollection",
    "features": [annotation(1, 40, 40), annotation(2, 300, 200)],
}


@pytest.fixture(scope="module")
def slide(tmp_path_factory, write_tiff, drawn_pixels):
    path = tmp_path_factory.mktemp("Folien mit Leerzeichen") / "bild ä.tif"
    write_tiff(path, drawn_pixels, 0.5)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory, slide, tiny_model):
    options = ("--root", str(slide.parent), "--model", str(tiny_model), "--device", "cpu")
    with serving(tmp_path_factory.mktemp("home"), *options) as server:
        yield server


@pytest.fixture(scope="module")
def done(server, slide):
    """Return a finished job of two annotations."""
    answer = server.ask("POST", "/v1/jobs", segment_body(slide, regions=REGIONS))
    assert answer.status == 202, answer
    told = answer.json()
    assert answer.headers["Location"] == told["links"]["self"] == f"/v1/jobs/{told['id']}"
    job = server.wait_for(told["id"])
    assert job["state"] == "done", job
    return job


def test_a_job_tells_what_it_found(server, done):
    assert done["result"]["regions"] == 2 and done["result"]["objects"] > 0
    assert done["started"] and done["finished"] and done["place"] is None
    assert server.ask("GET", "/v1/jobs").json()["jobs"][-1] == done
    health = server.ask("GET", "/v1/health").json()
    assert health["ready"] and health["device"] == "cpu"


def test_detections_come_gzipped_and_plain_alike(server, done):
    path = done["links"]["detections"]
    plain = server.ask("GET", path)
    packed = server.ask("GET", path, headers={"Accept-Encoding": "gzip, deflate"})
    assert plain.headers["Content-Type"] == packed.headers["Content-Type"] == "application/geo+json"
    assert packed.headers["Content-Encoding"] == "gzip" and "Content-Encoding" not in plain.headers
    assert gzip.decompress(packed.body) == plain.body
    for unwanted in ("gzip;q=0", "br", "identity"):
        again = server.ask("GET", path, headers={"Accept-Encoding": unwanted})
        assert again.body == plain.body
    found = plain.json()
    assert found["type"] == "FeatureCollection"
    assert len(found["features"]) == done["result"]["objects"]


def test_class_areas_come_as_json_and_as_a_table(server, done):
    path = done["links"]["classAreas"]
    areas = server.ask("GET", path).json()
    assert set(areas) == {"rows", "measurements", "heads", "regionIds"}
    table = server.ask("GET", path, headers={"Accept": "text/tab-separated-values"})
    assert table.headers["Content-Type"].startswith("text/tab-separated-values")
    assert len(table.body.decode().splitlines()) == len(areas["rows"]) + 1
    browser = server.ask("GET", path, headers={"Accept": "text/html,*/*;q=0.8"})
    assert browser.json() == areas


def test_the_overlay_is_a_picture(server, done):
    answer = server.ask("GET", done["links"]["overlay"])
    assert answer.headers["Content-Type"] == "image/png" and answer.body[:4] == b"\x89PNG"
    assert answer.headers["Cache-Control"] == "no-store"
    only_head = server.ask("HEAD", done["links"]["overlay"])
    assert only_head.status == 200 and only_head.body == b""


def test_answers_are_as_the_document_says(server, done):
    schema = schemathesis.openapi.from_dict(server.ask("GET", "/v1/openapi.json").json())
    headers = {"Authorization": f"Bearer {server.connection['token']}"}
    for path in ("", "/detections", "/class-areas", "/overlay"):
        operation = schema[f"/v1/jobs/{{job}}{path}"]["GET"]
        case = operation.Case(path_parameters={"job": done["id"]})
        answer = case.call(base_url=server.connection["url"], headers=headers)
        assert answer.status_code == 200
        case.validate_response(answer)


def test_cancelling_a_finished_job_changes_nothing(server, done):
    answer = server.ask("DELETE", done["links"]["self"])
    assert answer.status == 200 and answer.json() == done


def test_a_client_that_vanishes_in_the_middle_of_a_download_harms_nobody(server, done):
    for more in (b"", b"Accept-Encoding: gzip\r\n"):
        for _ in range(10):
            with server.raw() as raw:
                lines = (
                    f"GET {done['links']['detections']} HTTP/1.1\r\n"
                    f"Host: 127.0.0.1:{server.port}\r\n"
                    f"Authorization: Bearer {server.connection['token']}\r\n"
                )
                raw.sendall(lines.encode() + more + b"\r\n")
                raw.recv(10)
    assert server.ask("GET", done["links"]["detections"]).status == 200
    assert "Traceback" not in (server.home / "server" / "serve.log").read_text()


def test_a_crossing_region_and_one_outside_are_told_and_the_rest_is_done(server, slide):
    crossing = annotation(7, 40, 40)
    crossing["geometry"]["coordinates"] = [[[40, 40], [140, 140], [140, 40], [40, 140], [40, 40]]]
    both = {"type": "FeatureCollection", "features": [crossing, annotation(8, 5000, 5000)]}
    told = server.ask("POST", "/v1/jobs", segment_body(slide, regions=both)).json()
    job = server.wait_for(told["id"])
    assert job["state"] == "done" and job["result"]["regions"] == 1 and job["warnings"]


def test_a_job_that_fails_says_why_and_has_no_objects(server, slide):
    broken = slide.with_name("kaputt.svs")
    broken.write_bytes(b"no slide")
    told = server.ask("POST", "/v1/jobs", segment_body(broken)).json()
    job = server.wait_for(told["id"])
    assert job["state"] == "failed" and "kaputt.svs" in job["error"]["message"]
    missing = server.ask("GET", f"/v1/jobs/{told['id']}/detections")
    assert missing.status == 409 and "kaputt.svs" in missing.detail()


def test_an_image_without_a_pixel_size_is_refused_with_what_to_do(server, slide):
    from PIL import Image

    bare = slide.with_name("bare.png")
    Image.new("RGB", (640, 512), "pink").save(bare)
    body = segment_body(bare)
    body["image"]["pixelSizeMicrons"] = None
    job = server.wait_for(server.ask("POST", "/v1/jobs", body).json()["id"])
    assert job["state"] == "failed" and "pixel size" in job["error"]["message"]


def test_jobs_that_wait_are_placed_cancelled_and_limited(tmp_path, slide, tiny_model):
    home = tmp_path / "home"
    options = ("--root", str(slide.parent), "--model", str(tiny_model), "--longest-queue", "3")
    with serving(home, *options, "--device", "cpu") as server:
        asked = [server.ask("POST", "/v1/jobs", segment_body(slide)) for _ in range(6)]
        count = Counter(answer.status for answer in asked)
        assert count[202] >= 3 and set(count) == {202, 429}
        full = next(answer for answer in asked if answer.status == 429)
        assert full.headers["Retry-After"] and "waiting" in full.detail()
        last = [answer for answer in asked if answer.status == 202][-1].json()
        assert last["state"] == "queued" and last["place"] >= 1 and last["stage"] == "waiting"
        early = server.ask("GET", f"/v1/jobs/{last['id']}/overlay")
        assert early.status == 409 and "queued" in early.detail()
        cancelled = server.ask("DELETE", f"/v1/jobs/{last['id']}")
        assert cancelled.status == 202 and cancelled.json()["state"] == "cancelled"
        assert server.ask("GET", f"/v1/jobs/{last['id']}/overlay").status == 409


def test_fifty_clients_poll_while_a_job_runs(server, slide):
    """Only that nothing stands still: tests/benchmarks/polling.py has the figures."""
    body = segment_body(slide, options={"regions": "slide", "overlap": 0.75})
    job = server.ask("POST", "/v1/jobs", body).json()["links"]["self"]
    wait_until(lambda: server.ask("GET", job).json()["state"] != "queued", 60, "its turn")

    def poll(_: int) -> float:
        before = time.monotonic()
        assert server.ask("GET", job).status == 200
        return time.monotonic() - before

    with ThreadPoolExecutor(50) as clients:
        seconds = list(clients.map(poll, range(300)))
    assert median(seconds) < 2.0  # all at once, on a machine that computes: 0.1 s
    server.ask("DELETE", job)


def test_results_outlive_the_server(tmp_path, slide, tiny_model):
    home = tmp_path / "home"
    options = ("--root", str(slide.parent), "--model", str(tiny_model), "--device", "cpu")
    with serving(home, *options) as server:
        told = server.ask("POST", "/v1/jobs", segment_body(slide, regions=REGIONS)).json()
        before = server.wait_for(told["id"])
        objects = server.ask("GET", before["links"]["detections"]).body
    with serving(home, *options) as server:
        assert server.ask("GET", before["links"]["self"]).json() == before
        assert server.ask("GET", before["links"]["detections"]).body == objects


@pytest.mark.skipif(sys.platform != "linux", reason="only there a name may be no text")
def test_a_path_of_odd_bytes_is_taken_as_a_job(server, slide):
    odd = slide.with_name("odd.tif").as_uri().replace("odd.tif", "odd%FF.tif")
    target = os.fsencode(str(slide.parent)) + b"/odd\xff.tif"
    with open(target, "wb") as file:  # noqa: PTH123 - a name that is no text
        file.write(slide.read_bytes())
    answer = server.ask("POST", "/v1/jobs", segment_body(odd, regions=REGIONS))
    assert answer.status == 202, answer
    assert server.wait_for(answer.json()["id"])["state"] == "done"
