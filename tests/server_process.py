"""A real server in a process of its own, on a real socket, for tests to talk to."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

START_S = 20.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def detail(self) -> str:
        """Return the sentence of an error, which is shaped as errors are."""
        assert self.headers["Content-Type"] == "application/problem+json", self
        told = self.json()
        assert told["status"] == self.status
        assert set(told) - {"pointer"} == {"type", "title", "status", "detail"}
        assert "Traceback" not in told["detail"] and "\n" not in told["detail"]
        return str(told["detail"])

    def says(self, told: str) -> bool:
        """Return whether an error says this; if it begins with a pointer, whether of that field."""
        detail, pointer = self.detail(), self.json().get("pointer")
        if not told.startswith("/") or pointer is None:
            return told in detail
        field, _, rest = told.partition(" ")
        return pointer == field and rest in detail and not detail.startswith("/")


@dataclass(frozen=True)
class Server:
    """A running server. home: its folder; printed: the file with what it printed."""

    process: subprocess.Popen[bytes]
    home: Path
    printed: Path

    @property
    def connection(self) -> dict[str, Any]:
        return json.loads((self.home / "connection.json").read_text())

    @property
    def port(self) -> int:
        return int(urlsplit(self.connection["url"]).port or 0)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> Answer:
        """Ask with the token; a header of None is left out. A body that is no bytes is JSON."""
        sent: dict[str, str | None] = {"Authorization": f"Bearer {self.connection['token']}"}
        if body is not None:
            sent["Content-Type"] = "application/json"
        sent |= headers or {}
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            given = {name: value for name, value in sent.items() if value is not None}
            client.request(method, path, content, given)
            answer = client.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            client.close()

    def raw(self) -> socket.socket:
        """Return a fresh socket to the server."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def wait_for(self, job: str, seconds: float = 120.0) -> dict[str, Any]:
        """Return a job when it is finished."""
        return wait_until(lambda: self._finished(job), seconds, f"the end of job {job}")

    def _finished(self, job: str) -> dict[str, Any] | None:
        told = self.ask("GET", f"/v1/jobs/{job}").json()
        return told if told["state"] in ("done", "failed", "cancelled") else None

    def end(self, number: int = signal.SIGTERM) -> int:
        """Return the exit status after a signal."""
        self.process.send_signal(number)
        return self.process.wait(20)


def wait_until(look: Any, seconds: float, what: str) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s in vain for {what}")


@contextmanager
def serving(home: Path, *options: str) -> Iterator[Server]:
    """Give a server with this home; it is ended afterwards, if it still runs."""
    server = start(home, options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end()


def start(home: Path, options: Sequence[str]) -> Server:
    """Return a server that answers."""
    home.mkdir(parents=True, exist_ok=True)
    printed = home / f"printed-{time.monotonic_ns()}.txt"
    options = options if "--port" in options else [*options, "--port", "0"]
    command = [sys.executable, "-m", "qupath_bridge", "serve", *options]
    with printed.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment(home))
    server = Server(process, home, printed)

    def answers() -> bool:
        assert process.poll() is None, printed.read_text()
        try:
            assert server.connection["pid"] == process.pid
            return server.ask("GET", "/v1/health").status == 200
        except (OSError, AssertionError):
            return False

    try:
        wait_until(answers, START_S, f"the server: {printed.read_text()}")
    except AssertionError:
        process.kill()
        process.wait()
        raise
    return server


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a command that has this home."""
    root = str(Path(__file__).parents[1])
    before = os.environ.get("PYTHONPATH")
    path = f"{root}{os.pathsep}{before}" if before else root
    return {**os.environ, "QUPATH_PATHSEGDIFF_HOME": str(home), "PYTHONPATH": path}


def segment_body(
    path: Path | str, size: tuple[int, int] = (640, 512), **more: Any
) -> dict[str, Any]:
    """Return a request to segment the tissue of an image; a path becomes its URI."""
    uri = path.as_uri() if isinstance(path, Path) else path
    size_um = {"w": 0.5, "h": 0.5}
    image = {"uri": uri, "name": "bild", "width": size[0], "height": size[1]}
    image["pixelSizeMicrons"] = size_um
    return {"kind": "segment", "image": image, "regions": None, **more}
