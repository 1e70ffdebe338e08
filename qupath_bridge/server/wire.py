"""waitress as this server needs it: refusals before a body is read, said our way; a quick end."""

from __future__ import annotations

import select
import socket
import time
from contextlib import suppress
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher
from waitress.utilities import Error

from qupath_bridge.server.answers import SECURE, problem_text

THREADS = 16  # answers are quick, and a download that a client takes slowly holds no thread
CONNECTIONS = 500
END_SECONDS = 1.0
LINGER_SECONDS = 5.0
HEADER_BYTES = 64 * 2**10
SENTENCES = {
    400: "the request is not HTTP as it should be",
    411: "the request says no length; send a Content-Length",
    413: "the request is larger than this server takes; send it in several jobs",
    431: "the request's headers are too long",
    501: "this transfer encoding is not taken; send the body as it is, with its length",
}


class LengthMissingError(Error):
    """A body whose length nobody knows: it could be of any size."""

    code = 411
    reason = "Length Required"


def make_server(app: Any, bound: socket.socket, body_bytes: int) -> TcpWSGIServer:
    """Return a server of an application on a bound socket, which it takes over.

    `run()` returns soon after KeyboardInterrupt or SystemExit is raised in its thread.
    """
    adjustments = Adjustments(
        sockets=[bound],
        threads=THREADS,
        connection_limit=CONNECTIONS,
        channel_timeout=60,
        max_request_body_size=body_bytes + 1,  # the first size that is refused
        max_request_header_size=HEADER_BYTES,
        ident=None,
        asyncore_use_poll=hasattr(select, "poll"),  # of any number of connections
    )
    dispatcher = _Dispatcher()
    dispatcher.set_thread_count(THREADS)
    info = (bound.family, bound.type, bound.proto, bound.getsockname())
    return _Server(
        app, adj=adjustments, _sock=bound, dispatcher=dispatcher, sockinfo=info, bind_socket=False
    )


class _Parser(HTTPRequestParser):
    def received(self, data: bytes) -> int:
        """Take data in; what is refused by its headers is not waited for."""
        consumed: int = super().received(data)
        if self.headers_finished and self.chunked and not self.error:
            self._refuse(LengthMissingError("chunked"))
        if self.error:
            self.expect_continue = False  # nobody is told to go on sending
        return consumed

    def _refuse(self, error: Error) -> None:
        self.error: Error | None = error
        self.completed = True


class _ErrorTask(ErrorTask):
    def execute(self) -> None:
        """Send an error of the transport as problem+json."""
        self.channel.lingers = True
        status, reason = self.request.error.code, self.request.error.reason
        body = problem_text(
            status, SENTENCES.get(status, f"the request failed ({reason})")
        ).encode()
        self.status = f"{status} {reason}"
        self.response_headers += [
            ("Content-Type", "application/problem+json"),
            ("Content-Length", str(len(body))),
            *SECURE.items(),
        ]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):
    """A connection. One that is refused is still listened to for a while.

    Were it closed at once, a client in the middle of sending would see it reset, and not why.
    """

    parser_class = _Parser
    error_task_class = _ErrorTask
    lingers = False
    _deaf_until: float | None = None

    def readable(self) -> bool:
        return self._deaf_until is not None or bool(super().readable())

    def handle_read(self) -> None:
        """Read; from one that was refused, only to throw it away."""
        if self._deaf_until is None:
            super().handle_read()
            return
        try:
            self.recv(2**18)  # at its end this closes
        except OSError:
            self.handle_close()
        if time.monotonic() > self._deaf_until:
            self.handle_close()

    def handle_close(self) -> None:
        """Close; one that was refused only for writing, the first time."""
        if self.lingers and self.connected and self._deaf_until is None:
            self._deaf_until = time.monotonic() + LINGER_SECONDS
            self.will_close = self.close_when_flushed = False
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
                return
        super().handle_close()


class _Server(TcpWSGIServer):
    channel_class = _Channel


class _Dispatcher(ThreadedTaskDispatcher):
    def shutdown(self, cancel_pending: bool = True, timeout: float = END_SECONDS) -> bool:
        """End the threads; one that a client holds up is not waited for long."""
        return bool(super().shutdown(cancel_pending, timeout))


def is_quiet(message: str) -> bool:
    """Return whether waitress says something in its log that nobody has to do anything about."""
    return message.startswith("Task queue depth is")
