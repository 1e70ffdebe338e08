"""The body of a request, read as JSON; whatever else it is, the answer is a sentence."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from flask import Request
from werkzeug.exceptions import BadRequest, LengthRequired, UnsupportedMediaType

from qupath_bridge.errors import RequestError
from qupath_bridge.jobs import RequestLimits

LISTS_PER_VERTEX, OBJECTS_PER_REGION = 2, 100


def read_json(request: Request, limits: RequestLimits) -> Any:
    """Return the body of a request, parsed.

    Raises:
        HTTPException: it says that it is no JSON (415), has no length (411), is too large (413),
            or is malformed (400).
        RequestError: it is nested too deep, or of more parts than any job has.
    """
    _check_kind(request)
    if request.content_length is None:
        raise LengthRequired("the request says no length; send a Content-Length")
    try:
        text = request.get_data(cache=False).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8 (byte {error.start}); send UTF-8") from None
    # Ten times as large in memory as it was sent: counted before it is unfolded.
    most = LISTS_PER_VERTEX * limits.vertices + OBJECTS_PER_REGION * limits.regions
    if text.count("[") + text.count("{") > most:
        raise RequestError(f"the body has more than {most} lists and objects; send several jobs")
    try:
        return json.loads(text, parse_constant=_refused)
    except RecursionError:
        raise RequestError(f"the body is nested deeper than {limits.depth}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadRequest(f"the body is not JSON ({error.msg}, {where}); mend it") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON ({error}); mend it") from None


def _check_kind(request: Request) -> None:
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if request.mimetype != "application/json" or charset not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType("the body must be JSON: send Content-Type: application/json")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("the body must not be compressed; send it as it is")


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number that JSON has")
