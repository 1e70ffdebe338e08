"""Files from the web: resumed where they broke off, and checked."""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from model.errors import ModelError

Tell = Callable[[str, int, int | None], None]
"""Told the file's name, the bytes that are here, and those there are (None: not known)."""

TIMEOUT_S = 30.0
FRUITLESS = 3  # connections in a row that bring nothing before we give up
WAIT_S = 1.0  # times the number of those
_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Remote:
    """A file on the web; sha256 in hex digits where its publisher states one."""

    url: str
    sha256: str | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        """Return the file's name: the last part of its address."""
        return Path(urlsplit(self.url).path).name

    @classmethod
    def parse(cls, text: str) -> Remote:
        """Return the file at an address, which may end in `#sha256=` and hex digits.

        Raises:
            ModelError: it is no http or https address of a file, or that is no sha256.
        """
        url, _, fragment = text.partition("#")
        remote = cls(url, fragment.removeprefix("sha256=").lower() or None)
        if urlsplit(url).scheme not in ("http", "https") or not remote.name:
            raise ModelError(f"{text!r} is no http or https address of a file")
        if remote.sha256 and not _SHA256.fullmatch(remote.sha256):
            raise ModelError(f"{text!r} should end in #sha256= and 64 hex digits, or without #")
        return remote


@dataclass(frozen=True)
class Fetched:
    """A file that is here; verified: its sha256 is the one that was stated for it."""

    path: Path
    sha256: str
    verified: bool


def fetch(remote: Remote, folder: Path, tell: Tell = lambda *_: None) -> Fetched:
    """Download a file into a folder, going on where an earlier try broke off.

    What is there under its name already is taken if its sha256 is the stated one, or if none is
    stated. A hub's own checksum (`X-Linked-Etag`) is used where no other is given.

    Raises:
        ModelError: the server does not serve it, it breaks off for good, its checksum is
            another, or the system refused to write.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = folder / remote.name
        if place.is_file():
            return _judged(place, place, remote.sha256)
        part = place.with_name(f"{place.name}.part")
        stated = _complete(remote, part, tell)
        return _judged(part, place, remote.sha256 or stated)
    except OSError as error:  # URLError is one too
        reason = getattr(error, "reason", None) or error.strerror or error
        raise ModelError(
            f"cannot fetch {remote.url} into {folder} ({reason}); what is there stays, so run the"
            " command again when that is mended"
        ) from error


def _judged(path: Path, place: Path, stated: str | None) -> Fetched:
    """Put a complete file in its place if its checksum is the stated one."""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if stated and found != stated:
        if path != place:
            path.unlink()
            _mark(path).unlink(missing_ok=True)
        raise ModelError(
            f"{path} has sha256 {found}, but {stated} was stated for it; "
            + ("fetch it again" if path != place else "take it away and fetch it again")
        )
    path.replace(place)
    _mark(path).unlink(missing_ok=True)
    return Fetched(place, found, verified=stated is not None)


def _complete(remote: Remote, part: Path, tell: Tell) -> str | None:
    """Bring `part` to its full length over as many connections as it takes.

    Returns the sha256 that the hub states, if it does.
    """
    fruitless = 0
    while True:
        before = _size(part)
        stated, total = _once(remote, part, tell)
        here = _size(part)
        if total is None or here >= total:
            return stated
        fruitless = 0 if here > before else fruitless + 1
        time.sleep(fruitless * WAIT_S)
        if fruitless == FRUITLESS:
            raise ModelError(
                f"{remote.url} breaks off at byte {here} of {total}; run the command again later,"
                " it goes on from there"
            )


def _once(remote: Remote, part: Path, tell: Tell) -> tuple[str | None, int | None]:
    """Read what one connection gives into `part`; return the stated sha256 and the full size."""
    redirects = _Redirects()
    opener = urllib.request.build_opener(redirects)
    here = _size(part)
    try:
        with opener.open(_request(remote, part, here), timeout=TIMEOUT_S) as answer:
            stated = _stated(redirects.seen, answer.headers)
            going_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
            total = _total(answer.headers, here if going_on else 0) or remote.size
            _mark(part).write_text(answer.headers.get("ETag", ""), encoding="utf-8")
            with part.open("ab" if going_on else "wb") as stream:
                _pour(answer, stream, lambda done: tell(remote.name, done, total))
            return stated, total
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and here:
            if error.headers.get("Content-Range") == f"bytes */{here}":
                return _stated(redirects.seen, error.headers), here  # it is all here
            part.unlink()  # not the file that was begun: from the start
            return _once(remote, part, tell)
        raise ModelError(f"{remote.url} is not served: {error.code} {error.reason}") from error
    except (http.client.HTTPException, ConnectionError, TimeoutError):
        return None, remote.size or _size(part) + 1  # broke off: not complete


def _request(remote: Remote, part: Path, here: int) -> urllib.request.Request:
    headers = {"User-Agent": "qupath-pathsegdiff", "Accept-Encoding": "identity"}
    if here:
        headers["Range"] = f"bytes={here}-"
        etag = _mark(part).read_text(encoding="utf-8") if _mark(part).is_file() else ""
        if etag and not etag.startswith("W/"):
            headers["If-Range"] = etag  # a changed file is then sent from its start
    return urllib.request.Request(remote.url, headers=headers)


def _pour(answer: IO[bytes], stream: IO[bytes], tell: Callable[[int], None]) -> None:
    while chunk := answer.read(_CHUNK):
        stream.write(chunk)
        tell(stream.tell())


def _total(headers: Message, here: int) -> int | None:
    """Return the whole file's size by the headers of an answer that begins at byte `here`."""
    match = re.fullmatch(r"bytes \d+-\d+/(\d+)", headers.get("Content-Range", ""))
    if match:
        return int(match[1])
    length = headers.get("Content-Length")
    return here + int(length) if length and length.isdigit() else None


def _stated(seen: list[Message], last: Message) -> str | None:
    """Return the sha256 that a hub states in its redirect or answer."""
    for headers in (*seen, last):
        etag = headers.get("X-Linked-Etag", "").strip('"').lower()
        if _SHA256.fullmatch(etag):
            return etag
    return None


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _mark(part: Path) -> Path:
    """Return where the version (ETag) of a file that is not complete is kept."""
    return part.with_name(f"{part.name}.etag")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects as usual and keeps their headers, where hubs state the checksum."""

    def __init__(self) -> None:
        self.seen: list[Message] = []

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            return None
        self.seen.append(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
