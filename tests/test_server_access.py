"""Who gets an answer: the token, the names of the server, the page's codes."""

import pytest
from server_process import serving

from qupath_bridge.server.access import Codes, Names, bearer

ADDRESSES = [
    ("GET", "/v1/models"),
    ("GET", "/v1/jobs"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs/1"),
    ("DELETE", "/v1/jobs/1"),
    ("GET", "/v1/jobs/1/detections"),
    ("GET", "/v1/jobs/1/class-areas"),
    ("GET", "/v1/jobs/1/overlay"),
    ("POST", "/v1/codes"),
    ("GET", "/v1/openapi.json"),
    ("GET", "/v1/nothing"),
    ("POST", "/v1/health"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home"), "--allow-host", "Slides.example.org") as server:
        yield server


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", "Basic x", "Bearer é"])
def test_without_the_token_nothing_is_told(server, method, path, header):
    answer = server.ask(method, path, headers={"Authorization": header})
    assert answer.status == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
    assert "connection.json" in answer.detail()


def test_health_needs_no_token(server):
    told = server.ask("GET", "/v1/health", headers={"Authorization": None}).json()
    assert told["name"] == "qupath-pathsegdiff" and set(told) == {
        "name",
        "version",
        "device",
        "ready",
    }
    assert told["version"] == server.connection["version"]


@pytest.mark.parametrize("path", ["/v1/health", "/v1/jobs", "/", "/nothing"])
@pytest.mark.parametrize(
    "host", ["evil.example", "localhost:1", "127.0.0.1", "localhost.evil:80", ""]
)
def test_a_foreign_host_is_refused(server, path, host):
    answer = server.ask("GET", path, headers={"Host": host})
    assert answer.status == 403 and "--allow-host" in answer.detail()


def test_a_request_without_a_host_is_refused(server):
    with server.raw() as raw:
        raw.sendall(b"GET /v1/health HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 403")


def test_own_names_are_known(server):
    for host in (f"localhost:{server.port}", f"LOCALHOST:{server.port}", f"[::1]:{server.port}"):
        assert server.ask("GET", "/v1/jobs", headers={"Host": host}).status == 200
    for host in ("slides.example.org", "slides.example.org:8443"):
        assert server.ask("GET", "/v1/jobs", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "http://127.0.0.1:1", "file://"]
)
def test_a_foreign_origin_is_refused(server, origin):
    for path in ("/v1/health", "/v1/jobs"):
        answer = server.ask("GET", path, headers={"Origin": origin})
        assert answer.status == 403 and "origin" in answer.detail()


def test_the_own_origin_is_let_in_and_no_other_may_read_answers(server):
    origin = f"http://127.0.0.1:{server.port}"
    answer = server.ask("GET", "/v1/jobs", headers={"Origin": origin})
    assert answer.status == 200
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_code_gives_the_token_once(server):
    made = server.ask("POST", "/v1/codes")
    assert made.status == 201
    code = made.json()["code"]
    assert made.json()["url"] == f"{server.connection['url']}/#code={code}"
    swap = {"Authorization": f"Bearer {code}"}
    assert server.ask("POST", "/v1/session", headers=swap).json() == {
        "token": server.connection["token"]
    }
    again = server.ask("POST", "/v1/session", headers=swap)
    assert again.status == 401 and "qupath-pathsegdiff page" in again.detail()
    assert server.ask("GET", "/v1/jobs", headers=swap).status == 401


def test_a_code_is_no_token_and_the_token_no_code(server):
    code = server.ask("POST", "/v1/codes").json()["code"]
    headers = {"Authorization": f"Bearer {code}"}
    assert server.ask("GET", "/v1/jobs", headers=headers).status == 401
    assert server.ask("POST", "/v1/session").status == 401


def test_a_code_ends_after_ten_minutes_and_of_many_the_oldest_goes():
    clock = [0.0]
    codes = Codes(lambda: clock[0])
    first, late = codes.new(), codes.new()
    clock[0] = 599.0
    assert codes.use(first)
    clock[0] = 601.0
    assert not codes.use(late)
    many = [codes.new() for _ in range(150)]
    assert not codes.use(many[0]) and codes.use(many[-1])


def test_bound_to_every_address_numbers_are_known_and_names_are_not():
    names = Names("0.0.0.0", 8377)
    assert names.knows_host("192.168.1.5:8377")
    assert not names.knows_host("192.168.1.5") and not names.knows_host("evil.example:8377")
    assert not Names("127.0.0.1", 8377).knows_host("192.168.1.5:8377")


@pytest.mark.parametrize(
    "host", ["a@localhost:8377", "localhost:8377/x", "localhost:x", "[::1", " "]
)
def test_a_malformed_host_is_unknown(host):
    assert not Names("127.0.0.1", 8377).knows_host(host)


def test_a_port_of_a_proxy_counts_where_it_is_given():
    names = Names("127.0.0.1", 8377, ("a.example:8443",))
    assert names.knows_host("A.example:8443")
    assert not names.knows_host("a.example") and not names.knows_host("a.example:1")
    assert names.knows_origin("https://a.example:8443") and not names.knows_origin(
        "ftp://a.example:8443"
    )


def test_a_bearer_is_taken_apart():
    assert bearer("bearer  x ") == "x" and bearer("Basic x") == "" and bearer(None) == ""


def test_the_page_is_served_closed_to_others_and_holds_no_data(server):
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "javascript")):
        answer = server.ask("GET", path, headers={"Authorization": None})
        assert answer.status == 200 and kind in answer.headers["Content-Type"]
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert server.connection["token"].encode() not in answer.body


def test_what_is_not_there_is_said_in_a_sentence(server):
    assert server.ask("GET", "/nothing").status == 404
    assert "openapi" in server.ask("GET", "/v1/nothing").detail()
    assert server.ask("GET", "/../../etc/passwd").status == 404
    assert server.ask("GET", "/v1/jobs/..%2f..%2fx").status == 404
    refused = server.ask("PUT", "/v1/jobs")
    assert refused.status == 405 and "POST" in refused.headers["Allow"]
    refused.detail()
    assert server.ask("OPTIONS", "/v1/jobs").status == 405
    unknown = server.ask("GET", "/v1/jobs/" + "0" * 32)
    assert unknown.status == 404 and "no job" in unknown.detail()
