"""What the simulator answers at each address."""

import asyncio
import hashlib
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson

from runstream.providers.simulated import messages
from runstream.providers.simulated.answer import Answer, chunked
from runstream.providers.simulated.calls import Call
from runstream.providers.simulated.http import Connection, Refused, Request
from runstream.providers.simulated.responses import Kept, ResponsesAnswer
from runstream.providers.simulated.script import Script, script_for
from runstream.providers.simulated.state import State

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n%s: %s\r\n\r\n"
)
_PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\n<h1>Back soon</h1>\r\n"
_KEPT = b"/v1/responses/"
_LIMITED = {"limited": 1, "limited-unsaid": 0}
"""Keys that are, and what Retry-After says."""
_LISTED = ("sim:200:50", "unicode:100:50", "demo")


class Answering(Connection):
    """A connection on which a simulator's calls are answered."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._state.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._state.closed(self)
        super().connection_lost(error)

    async def answer(self, request: Request) -> None:
        match request.method, request.path:
            case b"GET", b"/stats":
                self.json(self._state.stats())
            case b"GET", b"/calls":
                self.json(self._state.record.told())
            case b"POST", b"/reset":
                self._state.reset()
                self.json(self._state.stats())
            case b"GET", b"/v1/models":
                _authenticate(request)
                self.json({"object": "list", "data": [{"id": name, "object": "model"} for name in _LISTED]})
            case b"POST", b"/v1/chat/completions":
                _authenticate(request)
                await self._complete(request, Answer)
            case b"POST", b"/v1/messages":
                _authenticate(request)
                if request.version is None:
                    raise Refused(400, "anthropic-version: header is required")
                await self._complete(request, messages.MessagesAnswer)
            case b"POST", b"/v1/responses":
                _authenticate(request)
                await self._complete(request, ResponsesAnswer)
            case b"POST", b"/v1/moderations":
                _authenticate(request)
                with _understood():
                    self.json(await self._state.judge.answer(request.json("input")))
            case method, path if path.startswith(_KEPT):
                _authenticate(request)
                await self._answer_kept(method, path.removeprefix(_KEPT).split(b"/"), request.query)
            case _:
                raise Refused(404, "There is nothing at this address.", "not_found")

    async def _complete(self, request: Request, protocol: type[Answer]) -> None:
        with _understood():
            body = protocol.asked(request.json(protocol.field))
            script = script_for(body)
        model = str(body.get("model", ""))
        self._state.calls[model] += 1
        self._state.answered += 1
        call = self._state.record.begin(self._state.answered, request.key or "", body)
        answer = protocol(script, body, self._state.answered)
        call.input_tokens = answer.input_tokens
        ending = "refused"
        try:
            self._fail(script, body)
            if script.ending == "page":
                ending = "page"
                self.transport.write(_PAGE)
                return
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
        kept = self._state.kept.keep(answer, call)
        if streamed:
            await self._counted(self._stream_kept(kept, 0))
        else:
            self.json(kept.response())

    async def _answer_kept(self, method: bytes, path: list[bytes], query: bytes) -> None:
        with _understood():
            name, asked = unquote(path[0].decode()), parse_qs(query.decode())
            seen = int(asked.get("starting_after", ["-1"])[0]) + 1
        kept = self._state.kept.get(name)
        if kept is None:
            raise Refused(404, f"Response with id '{name}' not found.", "not_found")
        match method, path[1:]:
            case b"POST", [b"cancel"]:
                kept.cancel()
                self.json(kept.response())
            case b"GET", [] if asked.get("stream") != ["true"]:
                self.json(kept.response())
            case b"GET", [] if not self._state.kept.is_streamed(kept):
                raise Refused(400, "This response can no longer be streamed because it is more than 5 minutes old.")
            case b"GET", []:
                await self._counted(self._stream_kept(kept, seen))
            case _:
                raise Refused(404, "There is nothing at this address.", "not_found")

    async def _counted(self, answering: Awaitable[None]) -> None:
        self._state.open_streams += 1
        try:
            await answering
        except asyncio.CancelledError:
            self._state.closed_by_client += 1
            raise
        finally:
            self._state.open_streams -= 1

    async def _answer_call(self, answer: Answer, *, streamed: bool) -> None:
        if answer.script.header_seconds:
            await asyncio.sleep(answer.script.header_seconds)
        await (self._stream(answer) if streamed else self._whole(answer))

    async def _stream_kept(self, kept: Kept, seen: int) -> None:
        answer = kept.answer
        events = await kept.news(seen)
        self.transport.write(_HEAD % (answer.id_header, answer.id.encode()))
        while events:
            self.transport.write(chunked(b"".join(events)))
            seen += len(events)
            await self.writable.wait()
            events = await kept.news(seen)
        if kept.status == "cancelled":
            self._state.closed_by_client += 1
        elif answer.script.ending == "cut":
            self.transport.close()
            return
        elif answer.script.ending == "malformed":
            self.transport.write(chunked(answer.malformed()))
        self.transport.write(b"0\r\n\r\n")

    def _fail(self, script: Script, body: Mapping[str, Any]) -> None:
        if script.status != 200:  # noqa: PLR2004
            raise Refused(script.status, f"simulated status {script.status}", retry_after=script.retry_after)
        if script.failures:
            asked = hashlib.sha256(orjson.dumps([body.get("model"), body["messages"]])).digest()
            self._state.failed[asked] += 1
            if self._state.failed[asked] <= script.failures:
                raise Refused(503, "simulated failure", "overloaded")

    async def _stream(self, answer: Answer) -> None:
        self.transport.write(_HEAD % (answer.id_header, answer.id.encode()) + answer.begin())
        await self._send_tokens(answer)
        match answer.script.ending:
            case "cut":
                self.transport.close()
                return
            case "hang":
                await asyncio.get_running_loop().create_future()
            case "error":
                self.transport.write(chunked(answer.failed()))
            case "malformed":
                self.transport.write(chunked(answer.malformed()))
            case "finish":
                self.transport.write(chunked(answer.tail()))
        self.transport.write(b"0\r\n\r\n")

    async def _send_tokens(self, answer: Answer) -> None:
        script, loop, write = answer.script, asyncio.get_running_loop(), self.transport.write
        if script.first_seconds:
            await asyncio.sleep(script.first_seconds)
        if not script.per_second:
            while burst := answer.burst():
                write(burst)
                await asyncio.sleep(0)  # the system may take in megabytes before it says that it is full
                await self.writable.wait()
            return
        start, gap = loop.time(), 1 / script.per_second
        for number, chunk in enumerate(answer.chunks()):
            if (wait := start + number * gap - loop.time()) > 0:
                await asyncio.sleep(wait)
            write(chunk)

    async def _whole(self, answer: Answer) -> None:
        script, whole = answer.script, answer.whole()
        await asyncio.sleep(script.first_seconds + (answer.sent / script.per_second if script.per_second else 0))
        self.json(whole)

    def refusal(self, request: Request, refused: Refused) -> dict[str, Any]:
        if request.path == b"/v1/messages":
            return messages.refusal(refused.status, refused.message)
        return {"error": {"message": refused.message, "type": "simulated_error", "code": refused.code}}


@contextmanager
def _understood() -> Iterator[None]:
    """Whoever reads a request falls over one of another shape, and its client is told so."""
    try:
        yield
    except ValueError as error:
        raise Refused(400, str(error), "invalid_request_error") from None
    except (AttributeError, KeyError, TypeError):
        raise Refused(400, "The request is not one of this protocol.", "invalid_request_error") from None


def _authenticate(request: Request) -> None:
    if not request.key:
        raise Refused(401, "Send a key.", "invalid_api_key")
    if request.key in _LIMITED:
        raise Refused(429, "This key has asked enough.", "rate_limit_exceeded", _LIMITED[request.key])
    if request.key == "bad":
        raise Refused(401, "Incorrect API key provided: bad.", "invalid_api_key")
