"""The scripts' shared part, run by a real Groovy, with the real server that it starts itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from groovy_process import Groovy

from qupath_bridge import __version__
from qupath_bridge.server.connection import is_alive

pytestmark = pytest.mark.timeout(600)  # the worker loads torch

BEGIN = """def said = []
def client = new PathSegDiff(new File(home), { said << it.toString() })
"""


@pytest.fixture(scope="module")
def module_home(tmp_path_factory, tiny_model) -> Iterator[Path]:
    """Return a home with a tiny model and what `scripts install` puts there."""
    root = tmp_path_factory.mktemp("server")
    home, user_dir = root / "Heim ü", root / "v0.5"
    user_dir.mkdir()
    shutil.copytree(tiny_model, home / "models" / "tiny")
    options = ["serve", "--port", "0", "--root", str(root.parent), "--device", "cpu"]
    (home / "launcher.json").write_text(json.dumps({"command": options, "version": "0"}))
    command(home, "scripts", "install", "--user-dir", user_dir)
    yield home
    stop(home, signal.SIGTERM)


def command(home: Path, *arguments: object) -> None:
    argv = [sys.executable, "-m", "qupath_bridge", *map(str, arguments)]
    environment = {**os.environ, "QUPATH_PATHSEGDIFF_HOME": str(home)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


def pid_of(home: Path) -> int:
    return int(json.loads((home / "connection.json").read_text(encoding="utf-8"))["pid"])


def stop(home: Path, how: signal.Signals) -> None:
    with suppress(OSError):
        os.kill(pid_of(home), how)


def stop_and_wait(home: Path) -> None:
    """End the server, and wait until it is gone."""
    with suppress(OSError):
        pid = pid_of(home)
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + 30
        while is_alive(pid) and time.monotonic() < until:
            time.sleep(0.1)
    assert not (home / "connection.json").exists()


def tmp_copy(home: Path, was: str, becomes: str) -> Path:
    """Return a folder with the installed shared files, changed in one place."""
    folder = home.parent / f"groovy {becomes}"
    shutil.copytree(home / "groovy", folder)
    shared = folder / "PathSegDiff.groovy"
    text = shared.read_text()
    assert was in text
    shared.write_text(text.replace(was, becomes, 1))
    return folder


@pytest.fixture
def restored_launcher(module_home) -> None:
    """Have the launcher tell the version that is installed, whatever tests before made of it."""
    file = module_home / "launcher.json"
    launcher = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**launcher, "version": __version__}), encoding="utf-8")


def call(groovy: Groovy, home: Path, code: str, **variables: Any) -> Any:
    whole = f"{BEGIN}[({{ -> {code} }}).call(), said]"
    return groovy(whole, shared=home / "groovy", home=str(home), **variables)


def request_for(project: Path) -> dict[str, Any]:
    """Return a job for the first image of a project, its regions as they were exported."""
    entry = json.loads(project.read_text(encoding="utf-8"))["images"][0]
    builder = entry["serverBuilder"]
    regions = project.parent / "pathsegdiff" / "1" / "regions.geojson"
    image = {
        "uri": builder["uri"],
        "name": entry["imageName"],
        "width": 640,
        "height": 512,
        "pixelSizeMicrons": {"w": 0.5, "h": 0.5},
        "serverBuilder": builder,
    }
    return {
        "kind": "segment",
        "image": image,
        "regions": json.loads(regions.read_text(encoding="utf-8")),
        "model": "tiny",
    }


def test_two_scripts_at_once_start_one_server(groovy, module_home):
    code = """def clients = (1..2).collect { new PathSegDiff(new File(home), { }) }
        def found = [].asSynchronized()
        def connect = { c ->
            try { c.connect(); found << c.connection.pid } catch (Throwable e) { found << e }
        }
        clients.collect { c -> Thread.start { connect(c) } }*.join()
        found"""
    found, _ = call(groovy, module_home, code)
    assert found == [pid_of(module_home)] * 2


def test_a_killed_server_is_started_again_and_the_job_gives_what_run_gives(
    groovy, module_home, small_project
):
    code = """client.connect()
        def id = client.submit(request).id
        boolean killed = false
        client.await(id, { job ->
            if (!killed) {
                killed = true
                def server = ProcessHandle.of(client.connection.pid as long).get()
                server.destroyForcibly()
                server.onExit().get()
            }
        })
        [client.detections(id).withCloseable { it.getText('UTF-8') }, client.classAreas(id)]"""
    (text, areas), said = call(groovy, module_home, code, request=request_for(small_project))
    assert any("went away" in line for line in said)
    run = ["run", small_project, "--backend", "portable", "--model", "tiny", "--device", "cpu"]
    command(module_home, *run)
    folder = small_project.parent / "pathsegdiff" / "1"
    wanted = json.loads((folder / "detections.geojson").read_text(encoding="utf-8"))["features"]
    assert wanted
    assert json.loads(text)["features"] == wanted
    rows = json.loads((folder / "result.json").read_text(encoding="utf-8"))["rows"]
    measured = call(groovy, module_home, "PathSegDiff.measurementsOf(rows)", rows=rows)[0]
    assert areas["measurements"] == measured
    assert [row["areaUm2"] for row in areas["rows"]] == [row["area_um2"] for row in rows]


def test_the_page_is_reached_by_an_address_that_holds_no_token(groovy, module_home):
    url, _ = call(groovy, module_home, "client.connect(); client.page()")
    token = json.loads((module_home / "connection.json").read_text(encoding="utf-8"))["token"]
    assert url.startswith("http://127.0.0.1:") and "#code=" in url and token not in url


def test_an_idle_server_of_another_version_is_restarted(groovy, module_home):
    """The shared file is one of a newer installation, and so is what it would start."""
    code = "client.connect()"
    call(groovy, module_home, code)
    before = pid_of(module_home)
    file = module_home / "connection.json"
    newer = tmp_copy(module_home, "VERSION = '", "VERSION = '9.")
    launcher = json.loads((module_home / "launcher.json").read_text(encoding="utf-8"))
    launcher["version"] = "9." + launcher["version"]
    (module_home / "launcher.json").write_text(json.dumps(launcher), encoding="utf-8")
    tried = "try { client.connect() } catch (Exception e) { said << e.message }\nsaid"
    said = groovy(BEGIN + tried, shared=newer, home=str(module_home))
    assert any("is restarted" in line for line in said)
    assert file.exists() and pid_of(module_home) != before
    assert "scripts install" in said[-1]  # what was started is still of the old version


STUBBORN = """
import json, os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Old(BaseHTTPRequestHandler):
    def do_GET(self):
        told = {"/v1/health": {"name": "qupath-pathsegdiff", "version": "0.0.1"}}
        body = json.dumps(told.get(self.path, {"jobs": []})).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

signal.signal(signal.SIGTERM, signal.SIG_IGN)
server = HTTPServer(("127.0.0.1", 0), Old)
url = f"http://127.0.0.1:{server.server_port}"
told = {"url": url, "token": "t", "pid": os.getpid(), "version": "0.0.1"}
with open(sys.argv[1], "w") as file:
    json.dump(told, file)
print("ready", flush=True)
server.serve_forever()
"""


def test_a_server_of_another_version_that_will_not_end_is_replaced_all_the_same(
    groovy, module_home, restored_launcher
):
    stop_and_wait(module_home)
    argv = [sys.executable, "-c", STUBBORN, str(module_home / "connection.json")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as old:
        assert old.stdout and old.stdout.readline() == "ready\n"
        # The test's own process is the parent: only it can take the dead one away.
        threading.Thread(target=old.wait).start()
        shorter = tmp_copy(module_home, "END_SECONDS = 15", "END_SECONDS = 1")
        health, said = groovy(
            f"{BEGIN}[client.connect(), said]", shared=shorter, home=str(module_home)
        )
        assert old.wait(20) == -signal.SIGKILL
    assert health["version"] == __version__ and any("is restarted" in line for line in said)
    assert pid_of(module_home) != old.pid


def test_two_qupaths_at_once_start_one_server_that_does_the_jobs_of_both(
    module_home, small_project, restored_launcher
):
    stop_and_wait(module_home)
    code = """client.connect()
        def job = client.await(client.submit(request).id, { })
        [client.connection.pid, job.state, client.classAreas(job.id).rows.size(), job.id]"""
    request = request_for(small_project)
    qupaths = [Groovy(), Groovy()]
    try:
        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(lambda qupath: qupath("1"), qupaths)) == [1, 1]
            calls = [
                threads.submit(call, qupath, module_home, code, request=request)
                for qupath in qupaths
            ]
            answers = [done.result()[0] for done in calls]
    finally:
        for qupath in qupaths:
            qupath.close()
    assert [answer[:2] for answer in answers] == [[pid_of(module_home), "done"]] * 2
    assert answers[0][2] == answers[1][2] > 0 and answers[0][3] != answers[1][3]


def test_the_user_opens_a_folder_to_the_server_by_a_file_of_their_own(
    groovy, module_home, small_project, tmp_path
):
    if tmp_path.is_relative_to(Path.home()):
        pytest.skip("temporary folders lie in the home folder, which is open")
    home = tmp_path / "home"
    shutil.copytree(module_home / "models", home / "models")
    command(home, "scripts", "install", "--user-dir", module_home.parent / "v0.5")
    code = """client.connect()
        try { return [client.submit(asked).id, null] } catch (PathSegDiff.Closed closed) {
            client.open(closed.folder)
            client.open(closed.folder)
            def job = client.submit(asked)
            client.cancel(job.id)
            [job.kind, closed.folder]
        }"""
    try:
        (kind, folder), _ = call(groovy, home, code, asked=request_for(small_project))
    finally:
        stop_and_wait(home)
    assert (kind, Path(folder)) == ("segment", small_project.parent.resolve())
    assert json.loads((home / "projects.json").read_text(encoding="utf-8")) == {"folders": [folder]}
