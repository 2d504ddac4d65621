"""HTTP for the simulator: one asyncio protocol per connection, parsed by httptools."""

import asyncio
from collections import deque
from typing import Any, cast

import httptools
import orjson


class Request:
    def __init__(self) -> None:
        self.method = b""
        self.path = b""
        self.query = b""
        self.key: str | None = None
        self.version: bytes | None = None
        self.keep_alive = True
        self._body: list[bytes] = []

    def add(self, body: bytes) -> None:
        self._body.append(body)

    def json(self, field: str) -> dict[str, Any]:
        """An object whose `field` is a list. Raises ValueError."""
        body = orjson.loads(b"".join(self._body))
        if not isinstance(body, dict) or not isinstance(body.get(field), list):
            raise ValueError(f"Send a JSON object with a list of {field}.")  # noqa: TRY004  as of bad JSON
        return body


class Refused(Exception):
    """`retry_after` is in seconds; 0 says none."""

    def __init__(self, status: int, message: str, code: str = "simulated", retry_after: int | None = None) -> None:
        self.status, self.message, self.code = status, message, code
        self.retry_after = int(status in {429, 503}) if retry_after is None else retry_after


class Connection(asyncio.Protocol):
    """Answers its requests one after the other; a lost connection cancels the answer that is under way."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._waiting: deque[Request] = deque()
        self._answering: asyncio.Task[None] | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        if self._answering is not None:
            self._answering.cancel()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def abort(self) -> None:
        self.transport.abort()

    # What httptools calls.

    def on_message_begin(self) -> None:
        self._request = Request()

    def on_url(self, url: bytes) -> None:
        parsed = httptools.parse_url(url)
        self._request.path, self._request.query = parsed.path, parsed.query or b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            scheme, _, key = value.decode("latin-1").partition(" ")
            self._request.key = key if scheme.lower() == "bearer" else None
        elif name.lower() == b"x-api-key":
            self._request.key = value.decode("latin-1")
        elif name.lower() == b"anthropic-version":
            self._request.version = value

    def on_body(self, body: bytes) -> None:
        self._request.add(body)

    def on_message_complete(self) -> None:
        self._request.method = self._parser.get_method()
        self._request.keep_alive = self._parser.should_keep_alive()
        self._waiting.append(self._request)
        if self._answering is None:
            self._answering = asyncio.get_running_loop().create_task(self._answer_all())

    async def _answer_all(self) -> None:
        while self._waiting:
            request = self._waiting.popleft()
            try:
                await self.answer(request)
            except Refused as refused:
                self.json(self.refusal(request, refused), refused.status, refused.retry_after)
            if not request.keep_alive:
                self.transport.close()
        self._answering = None

    async def answer(self, request: Request) -> None:
        """Raises Refused."""
        raise NotImplementedError

    def refusal(self, request: Request, refused: Refused) -> dict[str, Any]:
        """The body that a refusal has in the protocol that was spoken."""
        raise NotImplementedError

    def json(self, value: object, status: int = 200, retry_after: int = 0) -> None:
        body = orjson.dumps(value)
        retry = b"Retry-After: %d\r\n" % retry_after if retry_after else b""
        head = b"HTTP/1.1 %d Simulated\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n"
        self.transport.write(head % (status, retry, len(body)) + body)
