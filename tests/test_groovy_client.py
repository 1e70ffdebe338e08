"""The scripts' shared part, run by a real Groovy against a small HTTP server that says anything."""

from __future__ import annotations

import gzip
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from groovy_process import Groovy, GroovyError

from qupath_bridge.detections import (
    detection_id,
    head_key,
    head_key_of,
    is_ours,
    region_key,
    region_key_of,
    replaced_by,
)
from qupath_bridge.measurements import (
    COLUMNS,
    MEASUREMENT_PREFIX,
    ClassArea,
    annotation_measurements,
    read_class_areas,
)
from qupath_bridge.project.base import AUTOMATIC_REGIONS
from qupath_bridge.store import Scope

VERSION = "@VERSION@"  # as the shared file has it before it is installed
TOKEN = "a-token"
Answer = tuple[int, dict[str, str], bytes]


def as_json(content: Any, status: int = 200, kind: str = "application/json") -> Answer:
    return status, {"Content-Type": kind}, json.dumps(content).encode()


def problem(status: int, detail: str) -> Answer:
    content = {"type": "about:blank", "title": "no", "status": status, "detail": detail}
    return as_json(content, status, "application/problem+json")


@dataclass
class Server:
    """A server that answers as it is told, and remembers what it was asked."""

    url: str
    answers: dict[str, Answer | Callable[[], Answer]]
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def lines(self) -> list[str]:
        return [line for line, _, _ in self.asked]


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            line = f"{self.command} {self.path}"
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.asked.append((line, dict(self.headers), body))
            answer = server.answers.get(line) or problem(404, f"there is no {self.path}")
            status, headers, content = answer() if callable(answer) else answer
            if self.headers.get("Authorization") != f"Bearer {TOKEN}" and "health" not in line:
                status, headers, content = problem(401, "this token opens nothing")
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    answers: dict[str, Any] = {
        "GET /v1/health": as_json(
            {"name": "qupath-pathsegdiff", "version": VERSION, "device": "cpu", "ready": True}
        ),
        "GET /v1/jobs": as_json({"jobs": []}),
    }
    told = Server("", answers)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(told))
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    told.url = f"http://127.0.0.1:{http.server_address[1]}"
    yield told
    http.shutdown()
    http.server_close()
    thread.join(5)


@pytest.fixture
def home(tmp_path) -> Path:
    folder = tmp_path / "Heim ü $x"
    folder.mkdir()
    return folder


@pytest.fixture
def connected(server, home) -> Path:
    """Return a home in which the server has written how it is reached."""
    write_connection(home, server.url)
    return home


def write_connection(home: Path, url: str, token: str = TOKEN, pid: int = 2**22 + 5) -> None:
    content = {"url": url, "token": token, "pid": pid, "version": VERSION}
    (home / "connection.json").write_text(json.dumps(content), encoding="utf-8")


def call(groovy: Groovy, home: Path, code: str, **variables: Any) -> Any:
    """Return [what code gives, what was said]; `client` is a client at that home."""
    begin = (
        "def said = []; def client = new PathSegDiff(new File(home), { said << it.toString() });"
    )
    whole = f"{begin}\n[({{ -> {code} }}).call(), said]"
    return groovy(whole, home=str(home), **variables)


def trouble(groovy: Groovy, home: Path, code: str, **variables: Any) -> str:
    """Return the sentence of the Trouble that code must end with."""
    with pytest.raises(GroovyError) as caught:
        call(groovy, home, code, **variables)
    assert caught.value.kind in ("Trouble", "NoAnswer", "Cancelled"), caught.value
    return str(caught.value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---- what is pure ------------------------------------------------------------------------------


def test_ids_are_read_and_made_as_the_package_does(groovy):
    names = ["tissue", "glands", "", "ü 🔬", "x" * 128, "y" * 129, "z" * 300]
    names += [str(uuid4()) for _ in range(50)]
    keys = "names.collect { [PathSegDiff.Keys.head(it), PathSegDiff.Keys.region(it)] }"
    wanted = [[int(head_key(n), 16), int(region_key(n), 16)] for n in names]
    assert groovy(keys, names=names) == wanted
    ids = [detection_id("tissue", n, n.encode()) for n in names] + [str(uuid4()) for _ in range(9)]
    read = """ids.collect { def id = UUID.fromString(it); [PathSegDiff.Keys.isOurs(id),
        PathSegDiff.Keys.headOf(id), PathSegDiff.Keys.regionOf(id)] }"""
    wanted = [[is_ours(i), int(head_key_of(i), 16), int(region_key_of(i), 16)] for i in ids]
    assert groovy(read, ids=ids) == wanted


def test_what_is_replaced_is_what_a_run_replaces(groovy):
    regions = [str(uuid4()) for _ in range(6)] + list(AUTOMATIC_REGIONS)
    anew, present = [*regions[:2], *AUTOMATIC_REGIONS], [*regions[1:5], *AUTOMATIC_REGIONS]
    ids = [detection_id(h, r, b"") for h in ("tissue", "glands", "mine") for r in regions]
    ids.append(str(uuid4()))
    code = """def keys = { it.collect { PathSegDiff.Keys.region(it) } as Set }
        def heads = heads.collect { PathSegDiff.Keys.head(it) } as Set
        def (of, gone, kept) = [heads, keys(anew), keys(there)]
        ids.collect { PathSegDiff.Keys.isReplaced(UUID.fromString(it), of, gone, kept) }"""
    heads = ["tissue", "glands"]
    assert groovy("PathSegDiff.AUTOMATIC") == list(AUTOMATIC_REGIONS)
    wanted = list(map(replaced_by(heads, anew, present), ids))
    assert groovy(code, ids=ids, heads=heads, anew=anew, there=present) == wanted
    assert 0 < sum(wanted) < len(wanted)


@pytest.mark.parametrize(
    "value",
    [None, True, [], {}, [[], {}], "", 'a"\\/\b\f\n\r\tü🔬\x7f', {"a": [1, -2.5, {"b": None}]}],
    ids=repr,
)
def test_json_goes_through_unchanged(groovy, value):
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2)):
        code = "PathSegDiff.Json.write(PathSegDiff.Json.read(text))"
        assert json.loads(groovy(code, text=text)) == value


def test_coordinates_keep_every_digit(groovy):
    values = [0.1, 1e-7, 123456.78, 1 / 3, 5e300, 2**53, -0.0, 40000]
    code = "PathSegDiff.Json.write(PathSegDiff.Json.read(text))"
    assert json.loads(groovy(code, text=json.dumps(values))) == values


@pytest.mark.parametrize(
    "text", ["", "{", "[1,", '{"a"}', '"', "nul", "[1 2]", '{"a":1,}x', "[" * 100000, "1]", '"\\q"']
)
def test_broken_json_is_told(groovy, text):
    with pytest.raises(GroovyError) as caught:
        groovy("PathSegDiff.Json.read(text)", text=text)
    assert caught.value.kind == "IllegalArgumentException"


def rows() -> list[ClassArea]:
    return [
        ClassArea("a", "1", "R", "r1", "tissue", "Tumor", 12.34549999, 33.33335, 2),
        ClassArea("a", "1", "R", "r1", "glands", "Tumor", 1.0005, 0.00005, 1),
        ClassArea("a", "1", "R", "r1", "tissue", "Other", 0.0, 0.0, 0, silent=True),
        ClassArea("a", "1", 'S "\t\n', "r2", "tissue", "Tumor: Positive", 5.0, 100.0, 7),
    ]


def test_measurements_of_rows_are_those_of_a_run(groovy):
    raw = [vars(row) for row in rows()]
    assert groovy("PathSegDiff.measurementsOf(rows)", rows=raw) == annotation_measurements(rows())
    assert groovy("PathSegDiff.PREFIX") == MEASUREMENT_PREFIX
    assert groovy("PathSegDiff.COLUMNS") == list(COLUMNS)


HEADS = {
    "tissue": ("Tumor", "Stroma", "Other"),
    "glands": ("Gland", "Lumen"),
    "bed": ("Tumor", "Bed"),
    "tumour": ("Tumor",),
}
MODELS = [
    {
        "name": name,
        "heads": [
            {"name": head, "classes": [{"name": c, "detections": c != "Other"} for c in classes]}
            for head, classes in HEADS.items()
        ],
    }
    for name in ("default", "mine")
]


def rows_of(heads: list[str], random: Random) -> list[ClassArea]:
    """Return rows of one region; some classes are nowhere, "Other" is measured only."""
    found = []
    for head in heads:
        for kind in HEADS[head]:
            count, silent = random.choice([0, 1, 2]), kind == "Other"
            area, objects = count + random.random() * bool(count), 0 if silent else count
            found.append(
                ClassArea("a", "1", "R", "r1", head, kind, area, area, objects, silent=silent)
            )
    return found


def job_areas(rows: list[ClassArea]) -> dict[str, Any]:
    """Return rows as a job tells them."""
    told = [
        {
            "regionId": row.region_id,
            "head": row.head,
            "class": row.class_name,
            "areaUm2": row.area_um2,
            "percent": row.percent,
        }
        for row in rows
    ]
    return {"rows": told, "measurements": annotation_measurements(rows)}


@pytest.mark.parametrize("seed", range(20))
def test_what_other_heads_measured_stays_as_in_a_run(groovy, seed):
    random = Random(seed)
    stored: list[ClassArea] = []
    shown: dict[str, float] = {"Area": 3.0}
    for _ in range(5):
        heads = random.sample(list(HEADS), random.choice([1, 1, 2]))
        anew = rows_of(heads, random)
        code = "PathSegDiff.measured(old, PathSegDiff.rowsOf(areas), objects, models)"
        made = [[row.head, row.class_name] for row in stored if row.objects]
        shown = groovy(code, old=shown, areas=job_areas(anew), objects=made, models=MODELS)
        stored = [*Scope(heads, ["r1"], ["r1"]).kept_rows(stored), *anew]
        assert shown == annotation_measurements(stored)["r1"]


def test_without_a_server_the_objects_tell_whose_values_there_are(groovy):
    old = annotation_measurements([ClassArea("a", "1", "R", "r1", "tissue", "Tumor", 2.0, 1.0, 3)])
    anew = ClassArea("a", "1", "R", "r1", "bed", "Tumor", 5.0, 4.0, 1)
    code = "PathSegDiff.measured(old, rows, objects, [])"
    told = groovy(code, old=old["r1"], rows=[vars(anew)], objects=[["tissue", "Tumor"]])
    assert told == {
        "PathSegDiff: tissue: Tumor area \N{MICRO SIGN}m^2": 2.0,
        "PathSegDiff: tissue: Tumor %": 1.0,
        "PathSegDiff: bed: Tumor area \N{MICRO SIGN}m^2": 5.0,
        "PathSegDiff: bed: Tumor %": 4.0,
    }


def test_a_table_is_one_that_the_package_reads(groovy, tmp_path):
    file = tmp_path / "neu" / "areas.tsv"
    code = """def table = rows.collect { [it.image, it.entry_id, it.region, it.region_id, it.head,
        it.class_name, PathSegDiff.fixed(it.area_um2, 3), PathSegDiff.fixed(it.percent, 4),
        it.objects.toString()] }
        PathSegDiff.writeTable(new File(file), [PathSegDiff.COLUMNS] + table)"""
    groovy(code, file=str(file), rows=[vars(row) for row in rows()])
    found = read_class_areas(file)
    for row, read in zip(rows(), found, strict=True):
        assert (read.region, read.class_name, read.objects) == (
            row.region,
            row.class_name,
            row.objects,
        )
        assert read.area_um2 == float(f"{row.area_um2:.3f}")
        assert read.percent == float(f"{row.percent:.4f}")
    assert [p.name for p in file.parent.iterdir()] == ["areas.tsv"]


def test_the_table_that_is_printed_is_aligned(groovy):
    row = {"region": "Region 1", "head": "tissue", "class": "Tumor", "areaUm2": 1234567.0}
    told = groovy("PathSegDiff.tableOf([row])", row=row | {"percent": 12.34, "objects": 31})
    assert told == [
        "Region    Head    Class  Area mm^2     %  Objects",
        "Region 1  tissue  Tumor     1.2346  12.3       31",
    ]


# ---- the server is found -----------------------------------------------------------------------


def test_a_running_server_is_found_and_gets_the_token(groovy, connected, server):
    health, said = call(groovy, connected, "client.connect()")
    assert health["device"] == "cpu" and said == []
    assert all(headers["Authorization"] == f"Bearer {TOKEN}" for _, headers, _ in server.asked)


def test_without_a_launcher_the_remedy_is_to_install(groovy, home):
    assert "scripts install" in trouble(groovy, home, "client.connect()")


@pytest.mark.parametrize("text", ["{", "[]", '{"url": 1}', '"x"', ""])
def test_a_connection_file_that_no_server_wrote_counts_as_none(groovy, home, text):
    (home / "connection.json").write_text(text)
    assert call(groovy, home, "client.running()")[0] is None


def test_a_stale_connection_file_counts_as_none(groovy, home):
    write_connection(home, f"http://127.0.0.1:{free_port()}")
    assert call(groovy, home, "client.running()")[0] is None


def test_another_program_at_the_old_address_is_not_taken_for_the_server(groovy, connected, server):
    server.answers["GET /v1/health"] = as_json({"name": "something else"})
    assert call(groovy, connected, "client.running()")[0] is None


def test_another_users_server_at_the_old_address_is_not_used(groovy, home, server):
    write_connection(home, server.url, token="an old one")
    assert call(groovy, home, "client.running()")[0] is None


def test_a_server_far_away_is_never_replaced_by_one_here(groovy, home):
    write_connection(home, "http://no-such-host.invalid:8377")
    assert "no-such-host.invalid" in trouble(groovy, home, "client.connect()")


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="needs a user who is not root")
def test_an_unreadable_connection_file_is_told(groovy, connected):
    (connected / "connection.json").chmod(0)
    assert "readable" in trouble(groovy, connected, "client.running()")


def write_launcher(home: Path, code: str, version: str = VERSION) -> None:
    content = {"command": [sys.executable, "-c", code], "version": version}
    (home / "launcher.json").write_text(json.dumps(content), encoding="utf-8")


def test_a_server_that_cannot_start_is_told_with_the_end_of_its_log(groovy, home):
    write_launcher(home, "import sys; print('x'); sys.exit('error: no such model; import it')")
    told = trouble(groovy, home, "client.connect()")
    assert "error: no such model; import it" in told and "serve.log" in told


def test_a_launcher_that_is_gone_is_told(groovy, home):
    content = {"command": [str(home / "no-python"), "serve"], "version": VERSION}
    (home / "launcher.json").write_text(json.dumps(content), encoding="utf-8")
    told = trouble(groovy, home, "client.connect()")
    assert "no-python" in told and "scripts install" in told


def other_version(server: Server) -> None:
    server.answers["GET /v1/health"] = as_json(
        {"name": "qupath-pathsegdiff", "version": "0.0.1", "device": "cpu", "ready": True}
    )


def test_a_server_of_another_version_that_works_is_left_alone(groovy, home, server):
    other_version(server)
    server.answers["GET /v1/jobs"] = as_json({"jobs": [{"id": "1", "state": "running"}]})
    write_connection(home, server.url, pid=os.getpid())
    write_launcher(home, "")
    told = trouble(groovy, home, "client.connect()")
    assert "0.0.1" in told and "when its jobs are done" in told


def test_a_server_of_another_version_that_is_not_ours_to_start_is_told(groovy, home, server):
    other_version(server)
    write_connection(home, server.url, pid=os.getpid())
    write_launcher(home, "", version="0.0.1")
    told = trouble(groovy, home, "client.connect()")
    assert "0.0.1" in told and "scripts install" in told


# ---- jobs --------------------------------------------------------------------------------------

JOB: dict[str, Any] = {
    "id": "7",
    "state": "running",
    "place": 0,
    "stage": "tiles",
    "tilesDone": 1,
    "tilesTotal": 4,
    "secondsLeft": 100,
    "error": None,
}


def states(*jobs: dict[str, Any]) -> Callable[[], Answer]:
    """Return an answer that goes on from job to job, the last one for ever."""
    left = list(jobs)
    return lambda: as_json(JOB | (left.pop(0) if len(left) > 1 else left[0]))


AWAIT = "def told = []; client.connect(); [client.await('7', { told << it.state }), told]"


def test_a_job_is_handed_in_and_waited_for(groovy, connected, server):
    server.answers["POST /v1/jobs"] = as_json(JOB | {"state": "queued"}, 202)
    server.answers["GET /v1/jobs/7"] = states({"state": "queued"}, {}, {"state": "done"})
    submit = "client.connect(); client.submit(kind: 'segment', image: [name: 'ü \"'], n: null).id"
    assert call(groovy, connected, submit)[0] == "7"
    _, headers, body = server.asked[-1]
    assert json.loads(body) == {"kind": "segment", "image": {"name": 'ü "'}, "n": None}
    assert headers["Content-Type"] == "application/json"
    (job, told), _ = call(groovy, connected, AWAIT)
    assert job["state"] == "done" and told == ["queued", "running", "done"]


def test_a_failed_job_says_what_to_do(groovy, connected, server):
    error = {"type": "SlideError", "message": "a.svs is missing; find it"}
    server.answers["GET /v1/jobs/7"] = states({"state": "failed", "error": error})
    assert trouble(groovy, connected, AWAIT) == "a.svs is missing; find it"


def test_a_job_that_somebody_cancelled_ends_quietly(groovy, connected, server):
    server.answers["GET /v1/jobs/7"] = states({"state": "cancelled"})
    with pytest.raises(GroovyError) as caught:
        call(groovy, connected, AWAIT)
    assert caught.value.kind == "Cancelled"


def test_the_cancel_button_cancels_on_the_server_once(groovy, connected, server):
    server.answers["GET /v1/jobs/7"] = states({}, {}, {"state": "cancelled"})
    server.answers["DELETE /v1/jobs/7"] = as_json(JOB, 202)
    code = "int n = 0; client.connect(); client.await('7', { }, { ++n > 1 })"
    trouble(groovy, connected, code)
    assert server.lines().count("DELETE /v1/jobs/7") == 1


def test_an_interrupt_cancels_on_the_server_at_once(groovy, connected, server):
    server.answers["GET /v1/jobs/7"] = states({})
    server.answers["DELETE /v1/jobs/7"] = as_json(JOB, 202)
    code = """client.connect()
        def ended = null
        def thread = Thread.start {
            try { client.await('7', { }) } catch (Throwable e) { ended = e }
        }
        Thread.sleep(500)
        thread.interrupt()
        thread.join(1500)
        [ended?.class?.simpleName, thread.alive]"""
    assert call(groovy, connected, code)[0] == ["InterruptedException", False]
    assert server.lines()[-1] == "DELETE /v1/jobs/7"


def test_a_server_that_comes_back_is_found_again(groovy, home, server):
    """The address changes under the client; nothing is handed in twice."""
    server.answers["GET /v1/jobs/7"] = states({"state": "done"})
    write_connection(home, server.url)
    code = """client.connect()
        client.connection = client.connection + [url: 'http://127.0.0.1:' + port]
        client.await('7', { }).state"""
    state, said = call(groovy, home, code, port=free_port())
    assert state == "done" and "went away" in said[0]


def test_a_refusal_is_its_own_sentence(groovy, connected, server):
    server.answers["POST /v1/jobs"] = problem(422, "there is no head x; take tissue")
    code = "client.connect(); client.submit([:])"
    assert trouble(groovy, connected, code) == "there is no head x; take tissue"


def test_any_other_refusal_says_where_it_came_from(groovy, connected, server):
    server.answers["POST /v1/jobs"] = (502, {"Content-Type": "text/html"}, b"<h1>Bad Gateway")
    assert "502" in trouble(groovy, connected, "client.connect(); client.submit([:])")


def test_detections_come_unpacked(groovy, connected, server):
    packed = gzip.compress('{"ü": 1}'.encode())
    headers = {"Content-Type": "application/geo+json", "Content-Encoding": "gzip"}
    server.answers["GET /v1/jobs/7/detections"] = (200, headers, packed)
    code = "client.connect(); client.detections('7').withCloseable { it.getText('UTF-8') }"
    assert call(groovy, connected, code)[0].strip() == '{"ü": 1}'
    assert server.asked[-1][1]["Accept-Encoding"] == "gzip"


def test_a_server_that_never_answers_does_not_hang_for_ever(groovy, connected, server):
    def slow() -> Answer:
        time.sleep(2)
        return as_json({})

    server.answers["GET /v1/jobs/7"] = slow
    code = """client.connect()
        client.request('GET', '/v1/jobs/7', null, 1)"""
    assert "does not answer" in trouble(groovy, connected, code)


@pytest.mark.parametrize(
    ("job", "text"),
    [
        ({"state": "queued", "place": 2}, "waiting, number 2 in the queue"),
        ({"state": "queued", "place": None}, "waiting"),
        ({}, "tiles, 1 of 4, about 2 min left"),
        ({"tilesTotal": None, "secondsLeft": None, "stage": "outlines"}, "outlines"),
        ({"secondsLeft": 12}, "tiles, 1 of 4, about 12 s left"),
        ({"state": "done", "tilesTotal": None, "secondsLeft": None}, "done"),
    ],
)
def test_progress_is_told_in_a_few_words(groovy, job, text):
    assert groovy("PathSegDiff.progressOf(job).toString()", job=JOB | job) == text


def test_where_an_annotation_has_no_object_the_heads_of_the_others_tell_whose_values_there_are(
    groovy,
):
    kinds = [{"name": name, "detections": True} for name in ("Tumor", "Stroma")]
    heads = [{"name": name, "classes": kinds} for name in ("first", "one", "two")]
    models = [{"heads": heads}]
    empty = [
        ClassArea("a", "1", "R", "r1", "one", kind, 0.0, 0.0, 0) for kind in ("Tumor", "Stroma")
    ]
    old = annotation_measurements(empty)["r1"]
    code = "PathSegDiff.valuesOf(old, [], models, known as Set).collect { it[0] } as Set"
    assert groovy(code, old=old, models=models, known=["one"]) == ["one"]
    anew = [
        ClassArea("a", "1", "R", "r1", "two", kind, 5.0, 4.0, 1) for kind in ("Tumor", "Stroma")
    ]
    code = "PathSegDiff.measured(old, rows, [], models, known as Set)"
    rows = [vars(row) for row in anew]
    told = groovy(code, old=old, rows=rows, models=models, known=["one"])
    assert told == annotation_measurements([*empty, *anew])["r1"]
    again = groovy(code, old=old, rows=rows, models=models, known=["one", "two"])
    assert again == annotation_measurements(anew)["r1"]
