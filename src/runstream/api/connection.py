"""A client's connection, bounded where uvicorn leaves it open.

That is in the size of a request's head, in the time that a request takes to arrive, in requests sent ahead of their
answers, and in the number of connections. It costs something for each request, and nothing for what is sent.
"""

import asyncio
import resource
from time import monotonic

import structlog
from structlog.contextvars import bound_contextvars
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from runstream.api.context import protected
from runstream.api.errors import respond
from runstream.domain.errors import (
    HeadTooLarge,
    InvalidRequest,
    RequestTimeout,
    RunstreamError,
    TooManyConnections,
)
from runstream.domain.ids import new_id
from runstream.metrics import REQUESTS_REFUSED

_HEADERS = 100
"""Header fields of a request: as many as Apache takes."""
_AHEAD = 16
"""Requests that may wait on a connection for the answer to the one before them. Browsers send none ahead."""
_SPARE = 0.1
"""Part of the connections that may be there besides, to be told that there are too many."""

_OTHER_FILES = 1000
"""Files of a process that are no client's: connections to Postgres and Redis, and some to spare."""

log = structlog.get_logger(__name__)


def room_for(connections: int) -> int:
    """Have the system let this process open as many, and return how many of them it does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = round(connections * (1 + _SPARE)) + _OTHER_FILES
    files = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    if files == wanted:
        return connections
    room = max(1, round((files - _OTHER_FILES) / (1 + _SPARE)))
    log.warning("connections_limited", wanted=connections, connections=room, files=files)
    return room


class Gate:
    """The bounds of a server's connections, and those from which a request is awaited, the longest first."""

    def __init__(self, *, head: int, timeout: float, connections: int) -> None:
        """`head` is in bytes; `timeout` is how long a request may take to arrive, in seconds."""
        self.head = head
        self.connections = connections
        self._timeout = timeout
        self._since: dict[Connection, float] = {}

    def protocol(self) -> type["Connection"]:
        """What uvicorn makes of each connection."""

        class Bounded(Connection):
            gate = self

        return Bounded

    def awaits(self, connection: "Connection") -> None:
        """From now on."""
        self._since.pop(connection, None)
        self._since[connection] = monotonic()

    def forget(self, connection: "Connection") -> None:
        self._since.pop(connection, None)

    def sweep(self) -> None:
        """End what has been awaited for too long: to be called several times a second."""
        due = monotonic() - self._timeout
        while self._since:
            connection, since = next(iter(self._since.items()))
            if since > due:
                return
            self.forget(connection)
            connection.overdue()


class Connection(HttpToolsProtocol):
    """Refuses with an answer where nothing stands in its way, else by closing."""

    gate: Gate

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._refusal: RunstreamError | None = None
        self._arriving = False
        self._in_head = False
        self._parsed = self._unparsed = 0
        over = len(self.connections) - self.gate.connections
        if over > self.gate.connections * _SPARE:
            self._refuse(TooManyConnections())
            return
        if over > 0:
            self._refusal = TooManyConnections()  # once it has asked: closed before, it would not read the answer
        self.gate.awaits(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gate.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            self._refuse(self._refusal)
            return
        within_head = self._in_head
        super().data_received(data)
        if within_head and self._in_head:
            # A header is not told of before it is whole.
            self._unparsed += len(data)
            if self._unparsed > self.gate.head:
                self._refuse(self._too_large())

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or InvalidRequest("This is not an HTTP request."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._arriving = self._in_head = True
        self._parsed = self._unparsed = 0
        self.gate.awaits(self)

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        if len(self.headers) >= _HEADERS:
            self._give_up(HeadTooLarge(f"The request has more than {_HEADERS} header fields."))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= _AHEAD:
            self._give_up(InvalidRequest("Too many requests were sent ahead of their answers."))
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._arriving = False
        if self.cycle.response_complete:  # it was answered before all of it was here
            self.gate.awaits(self)
        else:
            self.gate.forget(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not (self._arriving or self.pipeline or self.transport.is_closing()):
            self.gate.awaits(self)

    def overdue(self) -> None:
        """The request has not arrived in time; or none was begun, and nobody waits for an answer."""
        if self._arriving:
            self._refuse(RequestTimeout())
        else:
            self.transport.close()

    def _count(self, size: int) -> None:
        self._parsed += size
        if self._parsed > self.gate.head:
            self._give_up(self._too_large())

    def _too_large(self) -> RunstreamError:
        return HeadTooLarge(f"The request's line and header fields are larger than {self.gate.head} bytes.")

    def _give_up(self, error: RunstreamError) -> None:
        """Stop the parser, which then has `send_400_response` called."""
        self._refusal = error
        raise error

    def _refuse(self, error: RunstreamError) -> None:
        self.gate.forget(self)
        REQUESTS_REFUSED.labels(error.code).inc()
        answered = self._can_answer()
        log.info("request_refused", code=error.code, answered=answered)
        if answered:
            self.transport.write(_answer(error))
        if self.cycle is not None:
            self.cycle.disconnected = True  # whoever still waits for its body, or answers it, is to stop
            self.cycle.message_event.set()
        self.transport.close()

    def _can_answer(self) -> bool:
        """Whether what is written now is the answer to what is refused, and no part of another's."""
        if self._arriving and not self._in_head:
            return not (self.cycle.response_started or self.pipeline)
        return self.cycle is None or self.cycle.response_complete


def _answer(error: RunstreamError) -> bytes:
    request_id = new_id("req")
    with bound_contextvars(request_id=request_id):
        response = respond(error)
    headers = protected([*response.raw_headers, (b"x-request-id", request_id.encode()), (b"connection", b"close")])
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"".join([STATUS_LINE[response.status_code], *lines, b"\r\n", bytes(response.body)])
