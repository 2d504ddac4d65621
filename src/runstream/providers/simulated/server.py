"""The simulator's HTTP: one asyncio protocol per connection, parsed by httptools."""

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Any, Self, cast
from urllib.parse import parse_qs, unquote

import httptools
import orjson

from runstream.providers.simulated import messages
from runstream.providers.simulated.answer import Answer, chunked
from runstream.providers.simulated.calls import Call, Calls
from runstream.providers.simulated.responses import Kept, KeptAnswers, ResponsesAnswer
from runstream.providers.simulated.script import Script, script_for

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n%s: %s\r\n\r\n"
)


def serve(host: str, port: int) -> None:
    """Serve until interrupted; prints the base URL, as a client needs it, once it listens."""
    with suppress(KeyboardInterrupt):
        _run(_serve(host, port))


def _run(main: Any) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


async def _serve(host: str, port: int) -> None:
    async with Simulator(host, port) as simulator:
        print(f"The simulated provider listens at {simulator.url}", flush=True)
        await asyncio.get_running_loop().create_future()


class Simulator:
    """A running simulator: `async with Simulator() as simulator: ... simulator.url`. Port 0 takes a free one."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._host, self._port = host, port
        self._connections: set[_Connection] = set()
        self.calls: Counter[str] = Counter()
        self.record = Calls()
        self.kept = KeptAnswers()
        self.connections = 0
        self.failed: Counter[bytes] = Counter()
        self.answered = 0
        self.open_streams = 0
        self.closed_by_client = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), self._host, self._port, backlog=4096)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.abort()
        self.kept.forget()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """The base URL that a provider takes, whatever its kind."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/v1"

    def stats(self) -> dict[str, Any]:
        return {
            "calls": dict(self.calls),
            "open_streams": self.open_streams,
            "closed_by_client": self.closed_by_client,
            "connections": self.connections,
            "open_connections": len(self._connections),
        }

    def reset(self) -> None:
        self.calls.clear()
        self.record = Calls()
        self.kept.forget()
        self.failed.clear()
        self.closed_by_client = self.connections = 0

    def opened(self, connection: "_Connection") -> None:
        self._connections.add(connection)
        self.connections += 1

    def closed(self, connection: "_Connection") -> None:
        self._connections.discard(connection)


class _Request:
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


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "simulated") -> None:
        self.status, self.message, self.code = status, message, code


class _Connection(asyncio.Protocol):
    """Answers its requests one after the other; a lost connection cancels the answer that is under way."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._parser = httptools.HttpRequestParser(self)
        self._request = _Request()
        self._waiting: deque[_Request] = deque()
        self._answering: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._simulator.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        self._simulator.closed(self)
        if self._answering is not None:
            self._answering.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def abort(self) -> None:
        self._transport.abort()

    # What httptools calls.

    def on_message_begin(self) -> None:
        self._request = _Request()

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

    # The answers.

    async def _answer_all(self) -> None:
        while self._waiting:
            request = self._waiting.popleft()
            try:
                await self._answer(request)
            except _Refused as refused:
                self._json(_refusal(request, refused), refused.status)
            if not request.keep_alive:
                self._transport.close()
        self._answering = None

    async def _answer(self, request: _Request) -> None:
        match request.method, request.path:
            case b"GET", b"/stats":
                self._json(self._simulator.stats())
            case b"GET", b"/calls":
                self._json(self._simulator.record.told())
            case b"POST", b"/reset":
                self._simulator.reset()
                self._json(self._simulator.stats())
            case b"GET", b"/v1/models":
                _authenticate(request)
                self._json({"object": "list", "data": [{"id": name, "object": "model"} for name in _LISTED]})
            case b"POST", b"/v1/chat/completions":
                _authenticate(request)
                await self._complete(request, Answer)
            case b"POST", b"/v1/messages":
                _authenticate(request)
                if request.version is None:
                    raise _Refused(400, "anthropic-version: header is required")
                await self._complete(request, messages.MessagesAnswer)
            case b"POST", b"/v1/responses":
                _authenticate(request)
                await self._complete(request, ResponsesAnswer)
            case method, path if path.startswith(_KEPT):
                _authenticate(request)
                await self._answer_kept(method, path.removeprefix(_KEPT).split(b"/"), request.query)
            case _:
                raise _Refused(404, "There is nothing at this address.", "not_found")

    async def _complete(self, request: _Request, protocol: type[Answer]) -> None:
        try:
            body = protocol.asked(request.json(protocol.field))
            script = script_for(body)
        except ValueError as error:
            raise _Refused(400, str(error), "invalid_request_error") from None
        model = str(body.get("model", ""))
        self._simulator.calls[model] += 1
        self._simulator.answered += 1
        call = self._simulator.record.begin(body)
        answer = protocol(script, body, self._simulator.answered)
        ending = "refused"
        try:
            self._fail(script, body)
            if isinstance(answer, ResponsesAnswer) and answer.in_background:
                ending = ""
                await self._keep(answer, call, streamed=bool(body.get("stream")))
                return
            ending = "closed"
            await self._counted(self._answer_call(answer, streamed=bool(body.get("stream"))))
            ending = script.ending
        finally:
            if ending:
                call.end(ending, answer.sent)

    async def _keep(self, answer: ResponsesAnswer, call: Call, *, streamed: bool) -> None:
        """From here on the answer's end is its own, and not its connection's."""
        kept = self._simulator.kept.keep(answer, call)
        if streamed:
            await self._counted(self._stream_kept(kept, 0))
        else:
            self._json(kept.response())

    async def _answer_kept(self, method: bytes, path: list[bytes], query: bytes) -> None:
        kept = self._simulator.kept.get(unquote(path[0].decode()))
        if kept is None:
            raise _Refused(404, f"Response with id '{path[0].decode()}' not found.", "not_found")
        asked = parse_qs(query.decode())
        match method, path[1:]:
            case b"POST", [b"cancel"]:
                kept.cancel()
                self._json(kept.response())
            case b"GET", [] if asked.get("stream") != ["true"]:
                self._json(kept.response())
            case b"GET", [] if not self._simulator.kept.is_streamed(kept):
                raise _Refused(400, "This response can no longer be streamed because it is more than 5 minutes old.")
            case b"GET", []:
                await self._counted(self._stream_kept(kept, int(asked.get("starting_after", ["-1"])[0]) + 1))
            case _:
                raise _Refused(404, "There is nothing at this address.", "not_found")

    async def _counted(self, answering: Awaitable[None]) -> None:
        self._simulator.open_streams += 1
        try:
            await answering
        except asyncio.CancelledError:
            self._simulator.closed_by_client += 1
            raise
        finally:
            self._simulator.open_streams -= 1

    async def _answer_call(self, answer: Answer, *, streamed: bool) -> None:
        if answer.script.header_seconds:
            await asyncio.sleep(answer.script.header_seconds)
        await (self._stream(answer) if streamed else self._whole(answer))

    async def _stream_kept(self, kept: Kept, seen: int) -> None:
        answer = kept.answer
        events = await kept.news(seen)
        self._transport.write(_HEAD % (answer.id_header, answer.id.encode()))
        while events:
            self._transport.write(chunked(b"".join(events)))
            seen += len(events)
            await self._writable.wait()
            events = await kept.news(seen)
        if kept.status == "cancelled":
            self._simulator.closed_by_client += 1
        elif answer.script.ending == "cut":
            self._transport.close()
            return
        elif answer.script.ending == "malformed":
            self._transport.write(chunked(answer.malformed()))
        self._transport.write(b"0\r\n\r\n")

    def _fail(self, script: Script, body: Mapping[str, Any]) -> None:
        if script.status != 200:  # noqa: PLR2004
            raise _Refused(script.status, f"simulated status {script.status}")
        if script.failures:
            asked = hashlib.sha256(orjson.dumps([body.get("model"), body["messages"]])).digest()
            self._simulator.failed[asked] += 1
            if self._simulator.failed[asked] <= script.failures:
                raise _Refused(503, "simulated failure", "overloaded")

    async def _stream(self, answer: Answer) -> None:
        self._transport.write(_HEAD % (answer.id_header, answer.id.encode()) + answer.begin())
        await self._send_tokens(answer)
        match answer.script.ending:
            case "cut":
                self._transport.close()
                return
            case "hang":
                await asyncio.get_running_loop().create_future()
            case "error":
                self._transport.write(chunked(answer.failed()))
            case "malformed":
                self._transport.write(chunked(answer.malformed()))
            case "finish":
                self._transport.write(chunked(answer.tail()))
        self._transport.write(b"0\r\n\r\n")

    async def _send_tokens(self, answer: Answer) -> None:
        script, loop, write = answer.script, asyncio.get_running_loop(), self._transport.write
        if script.first_seconds:
            await asyncio.sleep(script.first_seconds)
        if not script.per_second:
            while burst := answer.burst():
                write(burst)
                await asyncio.sleep(0)  # the system may take in megabytes before it says that it is full
                await self._writable.wait()
            return
        start, gap = loop.time(), 1 / script.per_second
        for number, chunk in enumerate(answer.chunks()):
            if (wait := start + number * gap - loop.time()) > 0:
                await asyncio.sleep(wait)
            write(chunk)

    async def _whole(self, answer: Answer) -> None:
        script, whole = answer.script, answer.whole()
        await asyncio.sleep(script.first_seconds + (answer.sent / script.per_second if script.per_second else 0))
        self._json(whole)

    def _json(self, value: object, status: int = 200) -> None:
        body = orjson.dumps(value)
        retry = b"Retry-After: 1\r\n" if status in {429, 503} else b""
        head = b"HTTP/1.1 %d Simulated\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n"
        self._transport.write(head % (status, retry, len(body)) + body)


_KEPT = b"/v1/responses/"
_LISTED = ("sim:200:50", "unicode:100:50", "demo")


def _refusal(request: _Request, refused: _Refused) -> dict[str, Any]:
    if request.path == b"/v1/messages":
        return messages.refusal(refused.status, refused.message)
    return {"error": {"message": refused.message, "type": "simulated_error", "code": refused.code}}


def _authenticate(request: _Request) -> None:
    if not request.key:
        raise _Refused(401, "Send a key.", "invalid_api_key")
    if request.key == "bad":
        raise _Refused(401, "Incorrect API key provided: bad.", "invalid_api_key")
