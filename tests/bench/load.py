"""The load client's wire: HTTP/1.1 exchanges, SSE frames, and what one reader saw.

Everything here runs once per token in the process that also holds every reader, so it is bare protocols and
bytes: an HTTP library would cost more than some of the systems it measures.
"""

import asyncio
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import httptools

CONNECT_ATTEMPTS = 5
CONNECT_PAUSE_S = 0.2


class ExchangeFailed(Exception):
    """The peer answered outside HTTP, or closed the connection in the middle of an answer."""


def now_us() -> int:
    return time.monotonic_ns() // 1000


@dataclass(frozen=True)
class Address:
    """Where a system answers, and the bearer token it wants."""

    port: int
    bearer: str = ""
    host: str = "127.0.0.1"

    def request(self, method: str, path: str, body: bytes | None = None, accept: str | None = None) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", "Connection: close"]
        if self.bearer:
            lines.append(f"Authorization: Bearer {self.bearer}")
        if accept:
            lines.append(f"Accept: {accept}")
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


class Exchange(asyncio.Protocol):
    """One request and its answer on a connection of its own, as a new visitor makes it.

    `opened` is the status, once the headers are in; `closed` is done when the whole answer is.
    """

    transport: asyncio.Transport

    def __init__(self, request: bytes, on_body: Callable[[bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[int] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.headers: dict[bytes, bytes] = {}
        self.request, self.on_body = request, on_body
        self.parser = httptools.HttpResponseParser(self)

    @classmethod
    async def open(
        cls,
        address: Address,
        method: str,
        path: str,
        body: bytes | None,
        on_body: Callable[[bytes], None],
        accept: str | None = None,
    ) -> "Exchange":
        """Connect, send, and wait for the answer's headers. A full accept queue is tried again."""
        request = address.request(method, path, body, accept)
        loop = asyncio.get_running_loop()
        for attempt in range(CONNECT_ATTEMPTS):
            try:
                _, exchange = await loop.create_connection(lambda: cls(request, on_body), address.host, address.port)
                break
            except OSError:
                if attempt == CONNECT_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(CONNECT_PAUSE_S)
        try:
            await exchange.opened
        except BaseException:
            exchange.abandon()
            raise
        return exchange

    async def finish(self) -> None:
        """Wait for the rest of the answer; a cancelled wait closes the connection."""
        try:
            await self.closed
        finally:
            self.abandon()

    def abandon(self) -> None:
        self.end(None)
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self.transport.write(self.request)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if not self.opened.done():
            self.opened.set_result(self.parser.get_status_code())

    def on_message_complete(self) -> None:
        self.end(None)
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.end(ExchangeFailed(str(error)))
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(ExchangeFailed(f"connection lost in the middle of an answer: {exc}"))

    def end(self, failure: ExchangeFailed | None) -> None:
        for future in (self.opened, self.closed):
            if future.done():
                continue
            if failure:
                future.set_exception(failure)
                future.exception()  # an exchange that nobody awaits any more is no warning
            elif future is self.closed:
                self.closed.set_result(None)
            else:
                future.cancel()


class Frames:
    """Cuts a body that arrives in any pieces into SSE frames, and hands on (event, data) of those with data."""

    def __init__(self, on_frame: Callable[[bytes, bytes], None]) -> None:
        self.on_frame = on_frame
        self.rest = b""

    def feed(self, piece: bytes) -> None:
        body = self.rest + piece
        if b"\r" in body:
            body = body.replace(b"\r\n", b"\n")
        *frames, self.rest = body.split(b"\n\n")
        for frame in frames:
            self.cut(frame)

    def cut(self, frame: bytes) -> None:
        event, data = b"", []
        for line in frame.split(b"\n"):
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
            elif name == b"event":
                event = value.removeprefix(b" ")
        if data:
            self.on_frame(event, b"\n".join(data))


@dataclass
class Reader:
    """What one client saw of one run; times are monotonic microseconds."""

    sent: int = field(default_factory=now_us)
    first: int | None = None
    ended: bool = False
    in_order: bool = True
    latest: int = 0
    rest: str = ""
    """The beginning of a token whose end has not arrived."""
    ages: "array[int]" = field(default_factory=lambda: array("q"))

    def read(self, text: str) -> None:
        """Take in text as it arrived, in whatever pieces: each token is the clock at which the provider made it."""
        now = now_us()
        whole, _, self.rest = f"{self.rest}{text}".rpartition(" ")
        for token in whole.split():
            made = int(token)
            if made < self.latest:
                self.in_order = False
            self.latest = made
            self.ages.append(now - made)
        if self.first is None and self.ages:
            self.first = now

    def holds(self, tokens: int) -> bool:
        """Did the whole transcript arrive, once and in order, with the end said?"""
        return self.ended and self.in_order and len(self.ages) == tokens
