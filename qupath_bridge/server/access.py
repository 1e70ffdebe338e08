"""Who may ask: the token, the page's codes, and the names a browser may know the server by."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CODE_SECONDS = 600
LONGEST_LIST_OF_CODES = 100
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def new_secret() -> str:
    """Return 256 random bits as text that is safe in a URL."""
    return secrets.token_urlsafe(32)


def bearer(header: str | None) -> str:
    """Return the secret of an `Authorization: Bearer` header; "" if there is none."""
    scheme, _, secret = (header or "").strip().partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def same_secret(given: str, known: str) -> bool:
    """Return whether two secrets are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), known.encode())


@dataclass(frozen=True)
class Names:
    """The names under which this server is reached, so that a page elsewhere cannot borrow one.

    host: what the server is bound to. port: its port. others: what a reverse proxy passes on as
    `Host`, `name` or `name:port`; without a port, any port will do.
    """

    host: str
    port: int
    others: tuple[str, ...] = ()

    def knows_host(self, header: str | None) -> bool:
        """Return whether a `Host` header names this server."""
        name, port = _split(header or "")
        if name is None:
            return False
        for other in self.others:
            other_name, other_port = _split(other)
            if name == other_name and other_port in (None, port):
                return True
        return (port or 80) == self.port and self._is_own(name)

    def knows_origin(self, header: str | None) -> bool:
        """Return whether a request comes from no page (None) or from our own."""
        if header is None:
            return True
        try:
            origin = urlsplit(header)
        except ValueError:
            return False
        return origin.scheme in ("http", "https") and self.knows_host(origin.netloc)

    def _is_own(self, name: str) -> bool:
        if name in LOOPBACK_NAMES or name == self.host.lower():
            return True
        # Bound to every address, it is reached by any of them. A foreign page can make its own
        # name lead here, but not a number.
        return self.host in ("0.0.0.0", "::", "") and _is_address(name)


class Codes:
    """Secrets that open the page once, within ten minutes; kept in memory alone."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._ends: dict[bytes, float] = {}
        self._lock = threading.Lock()

    def new(self) -> str:
        """Return a fresh code; of very many unused ones the oldest stops working."""
        code = secrets.token_urlsafe(16)
        with self._lock:
            self._ends[_digest(code)] = self._now() + CODE_SECONDS
            while len(self._ends) > LONGEST_LIST_OF_CODES:
                del self._ends[next(iter(self._ends))]
        return code

    def use(self, code: str) -> bool:
        """Return whether a code is good; it never is again."""
        with self._lock:
            end = self._ends.pop(_digest(code), None)
        return end is not None and self._now() < end


@dataclass(frozen=True)
class Access:
    """Everything that decides who may ask."""

    token: str = field(repr=False)
    names: Names
    codes: Codes = field(default_factory=Codes)

    def has_token(self, authorization: str | None) -> bool:
        """Return whether an `Authorization` header carries the token."""
        return same_secret(bearer(authorization), self.token)


def _digest(code: str) -> bytes:
    # Looked up by digest, so that the time of a lookup tells nothing about a code.
    return hashlib.sha256(code.encode("utf-8", "replace")).digest()


def _split(authority: str) -> tuple[str | None, int | None]:
    """Return the name, in lower case, and the port of `name:port`; (None, None) if it is none."""
    if not authority or any(c in authority for c in "@/?#\\, \t"):
        return None, None
    try:
        parts = urlsplit(f"//{authority}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return None, None
    return (name.rstrip(".") if name else None), port


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
