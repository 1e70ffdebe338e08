"""Downloads from a real server that knows ranges, breaks off, redirects and lies."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from model import ModelError
from model.fetch import Remote, fetch
from model.published import PUBLISHED, downloads_home, files_of

CONTENT = bytes(range(256)) * 4096
SHA = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """What the server does, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    etag: str = '"v1"'
    ranges: bool = True
    break_after: list[int] = field(default_factory=list)
    linked: str = ""
    status: int = 200
    asked: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site = self.site
        if self.path.startswith("/hub/"):
            self.send_response(302)
            self.send_header("Location", self.path.replace("/hub/", "/cdn/"))
            self.send_header("X-Linked-Etag", f'"{site.linked}"')
            self.end_headers()
            return
        if site.status != 200:
            self.send_error(site.status)
            return
        site.asked.append(self.headers.get("Range"))
        self._send(self._start())

    def _start(self) -> int:
        site, asked = self.site, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range", site.etag)
        return int(asked[1]) if asked and site.ranges and condition == site.etag else 0

    def _send(self, start: int) -> None:
        site, size = self.site, len(self.site.content)
        if start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.send_header("ETag", site.etag)
        self.end_headers()
        stop = start + site.break_after.pop(0) if site.break_after else size
        self.wfile.write(site.content[start:stop])
        self.wfile.flush()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("model.fetch.WAIT_S", 0.0)
    site = Site()
    handler = type("Bound", (Handler,), {"site": site})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        site.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield site
        server.shutdown()
        thread.join()


def test_a_file_arrives_whole_and_checked(site, tmp_path):
    told = []
    done = fetch(Remote(f"{site.url}/w.ckpt", SHA), tmp_path / "new", lambda *t: told.append(t))
    assert done.path == tmp_path / "new" / "w.ckpt" and done.path.read_bytes() == CONTENT
    assert (done.sha256, done.verified) == (SHA, True)
    assert told[-1] == ("w.ckpt", len(CONTENT), len(CONTENT))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["w.ckpt"]


def test_a_broken_transfer_goes_on_where_it_stopped(site, tmp_path):
    site.break_after = [300_000, 1, 400_000]
    done = fetch(Remote(f"{site.url}/w.ckpt", SHA), tmp_path)
    assert done.path.read_bytes() == CONTENT
    assert site.asked == [None, "bytes=300000-", "bytes=300001-", "bytes=700001-"]


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(site, tmp_path):
    site.break_after = [300_000, 0, 0, 0]
    with pytest.raises(ModelError, match=f"breaks off at byte 300000 of {len(CONTENT)}"):
        fetch(Remote(f"{site.url}/w.ckpt", SHA), tmp_path)
    assert not (tmp_path / "w.ckpt").exists()
    site.asked.clear()
    assert fetch(Remote(f"{site.url}/w.ckpt", SHA), tmp_path).path.read_bytes() == CONTENT
    assert site.asked == ["bytes=300000-"]


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(site, tmp_path):
    site.break_after = [300_000, 0, 0, 0]
    with pytest.raises(ModelError, match="breaks off"):
        fetch(Remote(f"{site.url}/w.ckpt"), tmp_path)
    site.content, site.etag = CONTENT[::-1], '"v2"'
    assert fetch(Remote(f"{site.url}/w.ckpt"), tmp_path).path.read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_starts_again(site, tmp_path):
    site.ranges, site.break_after = False, [300_000]
    assert fetch(Remote(f"{site.url}/w.ckpt", SHA), tmp_path).path.read_bytes() == CONTENT


def test_what_had_arrived_whole_is_not_fetched_again(site, tmp_path):
    (tmp_path / "w.ckpt.part").write_bytes(CONTENT)
    assert fetch(Remote(f"{site.url}/w.ckpt", SHA), tmp_path).verified
    assert site.asked == [f"bytes={len(CONTENT)}-"]
    assert fetch(Remote(f"{site.url}/w.ckpt", SHA), tmp_path).verified
    assert len(site.asked) == 1


def test_more_than_there_is_is_thrown_away(site, tmp_path):
    (tmp_path / "w.ckpt.part").write_bytes(CONTENT + b"more")
    assert fetch(Remote(f"{site.url}/w.ckpt", SHA), tmp_path).path.read_bytes() == CONTENT


def test_a_wrong_checksum_is_told_and_the_file_thrown_away(site, tmp_path):
    with pytest.raises(ModelError, match=f"has sha256 {SHA}, but {'0' * 64} was stated"):
        fetch(Remote(f"{site.url}/w.ckpt", "0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_file_under_that_name_is_told_and_left(site, tmp_path):
    (tmp_path / "w.ckpt").write_bytes(b"mine")
    with pytest.raises(ModelError, match="take it away"):
        fetch(Remote(f"{site.url}/w.ckpt", SHA), tmp_path)
    assert (tmp_path / "w.ckpt").read_bytes() == b"mine"


def test_the_checksum_a_hub_states_in_its_redirect_is_used_and_ranges_survive_it(site, tmp_path):
    site.linked, site.break_after = SHA, [300_000]
    done = fetch(Remote(f"{site.url}/hub/w.ckpt"), tmp_path)
    assert done.verified and site.asked == [None, "bytes=300000-"]
    site.linked = "0" * 64
    with pytest.raises(ModelError, match="was stated"):
        fetch(Remote(f"{site.url}/hub/other.ckpt"), tmp_path)


def test_without_any_checksum_it_says_unverified(site, tmp_path):
    assert not fetch(Remote(f"{site.url}/w.ckpt"), tmp_path).verified


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_what_is_not_served_is_one_error(site, tmp_path, status):
    site.status = status
    with pytest.raises(ModelError, match=f"is not served: {status}"):
        fetch(Remote(f"{site.url}/w.ckpt"), tmp_path)


def test_no_server_is_one_error_that_names_the_address(site, tmp_path):
    with pytest.raises(ModelError, match=r"cannot fetch http://127\.0\.0\.1:9/w"):
        fetch(Remote("http://127.0.0.1:9/w.ckpt"), tmp_path)


def test_a_folder_that_cannot_be_made_is_one_error(site, tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot fetch"):
        fetch(Remote(f"{site.url}/w.ckpt"), tmp_path / "file" / "below")


def test_addresses_carry_their_checksum():
    assert Remote.parse("https://x.org/a/w.ckpt").sha256 is None
    remote = Remote.parse(f"https://x.org/a/w.ckpt?download=1#sha256={SHA.upper()}")
    assert (remote.name, remote.sha256) == ("w.ckpt", SHA)


@pytest.mark.parametrize(
    "text",
    ["file:///etc/passwd", "ftp://x.org/w", "w.ckpt", "https://x.org/", "https://x.org/w#sha256=1"],
)
def test_an_address_that_is_none_is_refused(text):
    with pytest.raises(ModelError, match=re.escape(text)):
        Remote.parse(text)


def test_every_published_entry_says_its_licence_and_its_files_have_addresses_and_names():
    for entry in PUBLISHED.values():
        assert entry.licence and entry.page.startswith("https://") and entry.note
        for file in entry.files:
            assert Remote.parse(file.url).name == file.name


def test_what_no_hub_serves_or_nobody_knows_says_where_to_look():
    with pytest.raises(ModelError, match=r"get it by hand from https://drive\.google"):
        files_of("brca-20x", ())
    with pytest.raises(ModelError, match="known are hipt-vit256"):
        files_of("nosuch", ())
    assert files_of("nosuch", ("https://x.org/w",)) == (Remote("https://x.org/w"),)
    assert downloads_home().name == "downloads" and isinstance(downloads_home(), Path)
