"""A link to the page of a running server: asked for over HTTP, as any client would."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from qupath_bridge.errors import ServerError
from qupath_bridge.server.connection import START_ONE, Connection

TIMEOUT_S = 5.0


def new_page_link(connection: Connection) -> str:
    """Return a link that opens the page once, within ten minutes.

    Raises:
        ServerError: the server does not answer, or is not the one that wrote the connection file.
    """
    name = _asked(connection, "GET", "/v1/health", {}).get("name")
    if name != "qupath-pathsegdiff":  # before it gets to see the token
        raise ServerError(f"at {connection.url} is another program; {START_ONE}")
    headers = {"Authorization": f"Bearer {connection.token}"}
    return str(_asked(connection, "POST", "/v1/codes", headers).get("url"))


def _asked(connection: Connection, method: str, path: str, headers: dict[str, str]) -> Any:
    place = urlsplit(connection.url)
    client = http.client.HTTPConnection(place.hostname or "", place.port, timeout=TIMEOUT_S)
    try:
        client.request(method, path, headers=headers)
        answer = client.getresponse()
        content = json.loads(answer.read())
        status = answer.status
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ServerError(
            f"the server at {connection.url} does not answer ({error}); end process"
            f" {connection.pid} if it hangs, and {START_ONE}"
        ) from error
    finally:
        client.close()
    if status >= 400 or not isinstance(content, dict):
        reason = content.get("detail") if isinstance(content, dict) else status
        raise ServerError(f"the server at {connection.url} refuses: {reason}")
    return content
