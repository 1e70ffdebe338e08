"""`serve`: a socket, the queue of jobs, the connection file; started in order, ended in order."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType

from qupath_bridge import __version__
from qupath_bridge.errors import ProjectError, ServerError
from qupath_bridge.jobs import JobQueue, QueueSettings, RequestLimits
from qupath_bridge.known_projects import own_folder
from qupath_bridge.launcher import write_launcher
from qupath_bridge.server.access import Access, Names, new_secret
from qupath_bridge.server.app import AppSettings, create_app
from qupath_bridge.server.connection import Connection, remove_connection, write_connection
from qupath_bridge.server.roots import Roots
from qupath_bridge.server.wire import is_quiet, make_server

USUAL_PORT = 8377
LOG_BYTES = 2**20
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class ServeSettings:
    """How a server runs. port: None takes the usual one, or a free one if that is taken.

    home: the folder of the connection file; jobs are kept in `server` within. allow_hosts: names
    that a reverse proxy passes on. options: of `serve`, for whoever starts it again.
    """

    home: Path
    queue: QueueSettings
    roots: Roots = field(default_factory=Roots)
    host: str = "127.0.0.1"
    port: int | None = None
    allow_hosts: tuple[str, ...] = ()
    limits: RequestLimits = field(default_factory=RequestLimits)
    options: tuple[str, ...] = ()


def serve(settings: ServeSettings, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. `say` gets the lines for people.

    Raises:
        ServerError: the port is taken, the address is not ours, a file cannot be written.
        JobError: another server has the jobs.
    """
    own_folder(settings.home)
    with _until_told(), _bound(settings.host, settings.port) as bound:
        queue = JobQueue(settings.queue, settings.roots.resolve)
        try:
            _log_to(settings.queue.home / "serve.log")
            _serve_queue(settings, queue, bound, say)
        finally:
            for number in ENDING_SIGNALS:  # ending already: told again, it does not end sooner
                signal.signal(number, signal.SIG_IGN)
            queue.stop()


def _serve_queue(
    settings: ServeSettings, queue: JobQueue, bound: socket.socket, say: Callable[[str], None]
) -> None:
    port = bound.getsockname()[1]
    url = _url(settings.host, port)
    access = Access(new_secret(), Names(settings.host, port, settings.allow_hosts))
    app = create_app(queue, AppSettings(access, url, settings.queue.model, settings.limits))
    server = make_server(app, bound, settings.limits.body_bytes)
    connection = Connection(url, access.token, os.getpid(), __version__)
    try:
        queue.start()
        write_connection(settings.home, connection)
        with suppress(OSError, ProjectError):  # then the next start is the user's
            write_launcher(settings.home, settings.options)
        with suppress(OSError):  # whoever started it does not listen any more
            for line in _greeting(settings, url, access):
                say(line)
        server.run()
    except (KeyboardInterrupt, SystemExit):
        pass  # told to end before it ran
    finally:
        remove_connection(settings.home, connection)
        server.close()


def _greeting(settings: ServeSettings, url: str, access: Access) -> Iterator[str]:
    if not _is_loopback(settings.host):
        yield (
            f"warning: bound to {settings.host}: whoever can reach this address and has the token"
            " can read the slides under the roots, and what is sent can be read on the way; for"
            " TLS put a reverse proxy in front (see README)"
        )
    yield f"serving at {url} (Ctrl-C ends it)"
    yield f"page for ten minutes, once: {url}/#code={access.codes.new()}"
    yield f"jobs are kept in {settings.queue.home}"


@contextmanager
def _until_told() -> Iterator[None]:
    """Raise SystemExit in this thread on SIGTERM and SIGINT; afterwards all is as it was."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    before = {number: signal.signal(number, end) for number in ENDING_SIGNALS}
    try:
        yield
    except SystemExit as told:
        if told.code != 0:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _bound(host: str, port: int | None) -> Iterator[socket.socket]:
    """Give a socket bound to a port, or to a free one if none is asked for and ours is taken."""
    bound = _bind(host, USUAL_PORT if port is None else port, or_free=port is None)
    try:
        yield bound
    finally:
        bound.close()


def _bind(host: str, port: int, or_free: bool) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        raise ServerError(f"--host {host} is no address of this machine ({error})") from error
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.listen(1024)
    except OSError as error:
        bound.close()
        if or_free and error.errno in (errno.EADDRINUSE, errno.EACCES):
            return _bind(host, 0, or_free=False)
        raise _cannot_bind(host, port, error) from error
    return bound


def _cannot_bind(host: str, port: int, error: OSError) -> ServerError:
    if error.errno == errno.EADDRINUSE:
        return ServerError(
            f"port {port} of {host} is taken by another program; name another with --port, or"
            " leave --port out to get a free one"
        )
    reason = error.strerror or error
    return ServerError(f"cannot listen on {host}, port {port} ({reason}); choose others")


def _url(host: str, port: int) -> str:
    """Return the address for a client on this machine."""
    name = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _log_to(path: Path) -> None:
    """Send what this process logs into a file, of which one earlier piece is kept."""
    try:
        handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8")
    except OSError as error:
        raise ServerError(f"cannot write {path} ({error.strerror or error})") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(lambda record: not is_quiet(record.getMessage()))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
