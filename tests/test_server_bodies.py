"""Bad requests: each is refused in a sentence, and the server goes on as if nothing had been."""

import gzip
import json
import socket
import time

import pytest
from server_process import segment_body, serving

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    from PIL import Image

    path = tmp_path_factory.mktemp("slides") / "bild.png"
    Image.new("RGB", (640, 512), "white").save(path)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory, slide):
    options = ("--root", str(slide.parent), "--max-body", "16")
    with serving(tmp_path_factory.mktemp("home"), *options) as server:
        yield server


@pytest.fixture(autouse=True)
def unharmed(server):
    """Look after each test that no job was made and nothing unexpected logged."""
    yield
    assert server.ask("GET", "/v1/jobs").json() == {"jobs": []}
    log = (server.home / "server" / "serve.log").read_text()
    assert "Traceback" not in log, log


def head(server, length: str, *more: str) -> bytes:
    lines = (
        "POST /v1/jobs HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        f"Authorization: Bearer {server.connection['token']}",
        "Content-Type: application/json",
        length,
        *more,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def first_answer(raw: socket.socket) -> str:
    """Return everything that comes until the other side closes."""
    text = b""
    while piece := raw.recv(65536):
        text += piece
    return text.decode()


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "line 1, column 2"),
        (b"{'a': 1}", 400, "not JSON"),
        (b'{"a": NaN}', 400, "NaN"),
        (b'{"a": -Infinity}', 400, "-Infinity"),
        (b'{"a": 1e999}', 422, "/a is inf"),
        (b'{"kind": ' + b"9" * 5000 + b"}", 400, "not JSON"),
        (b'{"kind": "\xff"}', 400, "UTF-8"),
        ('{"kind": "ä"}'.encode("utf-16"), 400, "UTF-8"),
        (b"\xef\xbb\xbf{}", 400, "not JSON"),
        (b'{"kind": "\\ud800"}', 422, "half of a character pair"),
        (b'{"kind": "a\\u0000"}', 422, "NUL"),
        (b"[" * 100_000, 400, ""),
        (b"[" * 100_000 + b"]" * 100_000, 422, "nested deeper than 64"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, 422, "nested deeper than 64"),
        (b"[" + b"[]," * 3_100_000 + b"[]]", 422, "lists and objects"),
        (b"[]", 422, "must be an object"),
        (b"1", 422, "must be an object"),
        (b"null", 422, ""),
        (b'{"kind": "segment", "kind": "paint"}', 422, "/kind"),
        (b'{"kind": "segment"}', 422, "/image is missing"),
    ],
    ids=lambda value: None if isinstance(value, int) else repr(value)[:24],
)
def test_a_body_that_is_no_job_is_refused(server, body, status, said):
    answer = server.ask("POST", "/v1/jobs", body)
    assert answer.status in (400, 422) if not said else answer.status == status, answer
    assert answer.says(said)


def point_feature(*point: object) -> dict:
    ring = [[0, 0], [10, 0], list(point), [0, 10], [0, 0]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation"}}


POINT = "/regions/features/0/geometry/coordinates/0/2"


def regions(*features: dict) -> dict:
    return {"type": "FeatureCollection", "features": list(features)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": 1}, "/colour"),
        ({"model": "no such"}, "no such"),
        ({"model": "../../etc"}, "/model there is no model '../../etc'"),
        ({"model": "/etc"}, "/model"),
        ({"heads": ["no such"]}, "no such"),
        ({"options": {"overlap": 2}}, "/options/overlap"),
        ({"options": {"regions": "annotations"}}, "/options/regions none were sent"),
        ({"regions": []}, "/regions"),
        (
            {"regions": regions(point_feature(1, "2"))},
            f"{POINT} must be a point",
        ),
        (
            {"regions": regions(point_feature(1e300, 2))},
            f"{POINT} must be a point",
        ),
        (
            {"regions": regions(point_feature(1))},
            f"{POINT} must be a point",
        ),
        ({"regions": regions(*[point_feature(1, 2)] * 10_001)}, "10000 regions"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_job_that_cannot_be_done_is_refused_naming_its_field(server, slide, change, said):
    answer = server.ask("POST", "/v1/jobs", segment_body(slide) | change)
    assert answer.status == 422 and answer.says(said)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("https://example.org/a.svs", "https://example.org/a.svs"),
        ("file:/etc/passwd", "--root"),
        ("file:{folder}/../../../../etc/passwd", "/etc/passwd"),
        (r"\\server\share\a.svs", "--map"),
        ("file://server/share/Bild%20%C3%A4.svs", r"\\server\share\Bild ä.svs"),
        ("file:{folder}/nicht%20da%20%C3%A4.svs", "nicht da ä.svs"),
        ("file:{folder}", "is a folder"),
        ("file:/dev/zero", "--root"),
        ("file:{folder}/a%00b", "NUL"),
        ("file:{folder}/%FF.svs", "there is no file"),
        ("", "/image/uri"),
    ],
)
def test_an_image_that_cannot_be_opened_is_named_with_a_remedy(server, slide, uri, said):
    uri = uri.format(folder=str(slide.parent))
    answer = server.ask("POST", "/v1/jobs", segment_body(uri))
    assert answer.status == 422 and answer.says(said)


def test_more_than_a_million_vertices_are_refused(server, slide):
    ring = [[n, n % 7] for n in range(250_000)]
    geometry = {"type": "MultiPolygon", "coordinates": [[ring]] * 5}
    many = regions({"type": "Feature", "geometry": geometry, "properties": {}})
    body = json.dumps(segment_body(slide, regions=many), separators=(",", ":")).encode()
    answer = server.ask("POST", "/v1/jobs", body)
    assert answer.status == 422 and "1000000 vertices" in answer.detail()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": None}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/json; charset=latin-1"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"X-Long": "x" * 70_000}, 431),
        ({"Transfer-Encoding": "chunked", "Content-Length": None}, 411),
        ({"Content-Length": "-1"}, 400),
        ({"Content-Length": "1, 2"}, 400),
    ],
)
def test_a_request_whose_headers_do_not_fit_is_refused(server, headers, status):
    body = gzip.compress(b"{}") if "Content-Encoding" in headers else b"2\r\n{}\r\n0\r\n\r\n"
    answer = server.ask("POST", "/v1/jobs", body, headers)
    assert answer.status == status
    answer.detail()


def test_a_client_that_sends_all_of_a_body_too_large_hears_why(server):
    answer = server.ask("POST", "/v1/jobs", b" " * (40 * 2**20))
    assert answer.status == 413 and "several jobs" in answer.detail()


def test_two_gigabytes_are_refused_before_they_are_sent(server):
    before = time.monotonic()
    for more in ((), ("Expect: 100-continue",)):
        with server.raw() as raw:
            raw.sendall(head(server, f"Content-Length: {2**31}", *more))
            answer = first_answer(raw)
        assert answer.startswith("HTTP/1.1 413 ") and "application/problem+json" in answer
    assert time.monotonic() - before < 5.0


def test_a_body_of_the_most_bytes_is_read_and_one_more_is_not(server):
    for more, status in ((0, 422), (1, 413)):
        body = b"[" + b" " * (16 * 2**20 - 2 + more) + b"]"
        with server.raw() as raw:
            raw.sendall(head(server, f"Content-Length: {len(body)}", "Connection: close"))
            if status == 422:
                raw.sendall(body)
            assert first_answer(raw).startswith(f"HTTP/1.1 {status} ")


def test_a_client_that_vanishes_in_the_middle_of_a_body_leaves_nothing(server):
    for _ in range(20):
        with server.raw() as raw:
            raw.sendall(head(server, "Content-Length: 1000") + b'{"kind": "segment"')
    half_closed = server.raw()
    half_closed.sendall(head(server, "Content-Length: 1000") + b"{")
    half_closed.shutdown(socket.SHUT_WR)
    assert first_answer(half_closed) == ""
    half_closed.close()
    assert server.ask("GET", "/v1/health").status == 200


@pytest.mark.parametrize("noise", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"\0" * 64, b"x\n\n"])
def test_what_is_not_http_is_refused(server, noise):
    with server.raw() as raw:
        raw.sendall(noise + b"\r\n\r\n")
        answer = first_answer(raw)
    assert answer.startswith(("HTTP/1.1 400 ", "HTTP/1.0 400 "))
    assert "Traceback" not in answer and "application/problem+json" in answer


def test_the_rest_of_a_refused_body_is_no_request_of_its_own(server):
    inner = b"DELETE /v1/jobs/1 HTTP/1.1\r\n\r\n"
    with server.raw() as raw:
        raw.sendall(head(server, "Transfer-Encoding: chunked") + inner)
        assert first_answer(raw).count("HTTP/1.1") == 1
