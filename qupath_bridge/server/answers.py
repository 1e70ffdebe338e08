"""Answers: JSON, files, and errors as problem+json (RFC 9457) of one sentence."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.wsgi import wrap_file

from model.errors import ModelError
from qupath_bridge.errors import (
    ClosedFolderError,
    DiskFullError,
    ImagePathError,
    PathSegDiffError,
    QueueFullError,
    RequestError,
    UnknownJobError,
)

CHUNK_BYTES = 2**18
RETRY_SECONDS = 30
STATUS_OF = {
    RequestError: 422,
    ImagePathError: 422,
    ModelError: 422,
    UnknownJobError: 404,
    QueueFullError: 429,
    DiskFullError: 507,
}
SENTENCES = {
    404: "there is nothing at this address; /v1/openapi.json lists what there is",
    405: "this address does not take that method; /v1/openapi.json lists what it takes",
    413: "the request is larger than this server takes; send it in several jobs",
}
NOTHING: Mapping[str, str] = {}
SECURE = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)


def problem_text(status: int, detail: str, more: Mapping[str, str] = NOTHING) -> str:
    """Return an error as JSON; `more` are members beside those of every error."""
    title = HTTPStatus(status).phrase
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return json.dumps(content)  # ASCII: whatever a path is made of can be sent


def problem(
    status: int, detail: str, more: Mapping[str, str] = NOTHING, **headers: str
) -> Response:
    """Return an error as an answer; `headers` with underscores for dashes."""
    text = problem_text(status, detail, more)
    answer = Response(text, status, mimetype="application/problem+json")
    for name, value in headers.items():
        answer.headers[name.replace("_", "-")] = value
    return answer


def problem_of(error: PathSegDiffError | ModelError) -> Response:
    """Return an expected error as an answer."""
    fitting = (status for kind, status in STATUS_OF.items() if isinstance(error, kind))
    status = next(fitting, 500)
    if status == 429:
        return problem(status, str(error), Retry_After=str(RETRY_SECONDS))
    return problem(status, str(error), _members_of(error))


def _members_of(error: Exception) -> dict[str, str]:
    """Return what an error says beside its sentence: see `Problem` in the document."""
    if isinstance(error, ClosedFolderError) and error.folder is not None:
        return {"folder": error.folder}
    if isinstance(error, RequestError) and error.pointer is not None:
        return {"pointer": error.pointer}
    return {}


def problem_of_http(error: HTTPException) -> Response:
    """Return what Flask found wrong as an answer of our kind; its headers, as `Allow`, stay."""
    status = error.code or 500
    answer = problem(status, SENTENCES.get(status, error.description or "the request is malformed"))
    for name, value in error.get_headers(request.environ):
        if name.lower() not in ("content-type", "content-length"):
            answer.headers[name] = value
    return answer


def json_answer(content: Any, status: int = 200, location: str | None = None) -> Response:
    """Return data as an answer."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    answer = Response(text, status, mimetype="application/json")
    if location is not None:
        answer.headers["Location"] = location
        answer.autocorrect_location_header = False
    return answer


def file_answer(path: Path, mimetype: str, vary: str | None = None) -> Response:
    """Return a file as an answer, sent as fast as the client takes it.

    Raises:
        UnknownJobError: it is gone: the job was cleared meanwhile.
    """
    file = _opened(path)
    answer = Response(wrap_file(request.environ, file, CHUNK_BYTES), mimetype=mimetype)
    answer.direct_passthrough = True
    answer.content_length = path.stat().st_size
    if vary:
        answer.headers["Vary"] = vary
    return answer


def gzipped_answer(path: Path, mimetype: str) -> Response:
    """Return what a gzipped file holds: as it is where the client takes that, else unpacked.

    Raises:
        UnknownJobError: it is gone: the job was cleared meanwhile.
    """
    if request.accept_encodings.quality("gzip") > 0:
        answer = file_answer(path, mimetype)
        answer.headers["Content-Encoding"] = "gzip"
    else:
        answer = Response(_Unpacked(path), mimetype=mimetype)
    answer.headers["Vary"] = "Accept-Encoding"
    return answer


class _Unpacked:
    """The bytes in a gzipped file, piece by piece; the file is closed when the client is gone."""

    def __init__(self, path: Path) -> None:
        self._file = gzip.GzipFile(fileobj=(raw := _opened(path)))
        self._raw = raw

    def __iter__(self) -> Iterator[bytes]:
        while piece := self._file.read(CHUNK_BYTES):
            yield piece

    def close(self) -> None:
        self._file.close()
        self._raw.close()


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise UnknownJobError("the result was cleared away meanwhile; run the job again") from None
