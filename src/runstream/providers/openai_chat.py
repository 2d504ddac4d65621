"""The chat-completions protocol: OpenAI, vLLM, Ollama, llama.cpp, LiteLLM and everybody else who speaks it.

A call goes its way in this file and five small ones: `upstream` (HTTP), `patience` (time), `sse` (bytes to events),
`chat_chunks` (events to text), `failures` (refusals to errors).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import orjson

from runstream.domain.errors import ConfigurationError, ProviderError, ProviderProtocolError, ProviderTimeout
from runstream.providers.base import Call, Opened, Piece, ProviderConfig, TextDelta, Timeouts
from runstream.providers.chat_chunks import ChatAnswer
from runstream.providers.failures import Scrubber, failure_in_stream, failure_of_status, message_of, retry_after
from runstream.providers.patience import Patience
from runstream.providers.sse import EventReader
from runstream.providers.text import clean
from runstream.providers.upstream import FAILURES, Body, Upstream

MAX_EVENT_BYTES = 8 * 2**20
_MAX_ERROR_BYTES = 64 * 1024
_ERROR_BODY_SECONDS = 5.0
_AFTER_FINISH_SECONDS = 5.0
"""How long usage and the end mark may take once the finish reason has come."""
_DRAIN_SECONDS = 0.02
"""What a kept connection is worth waiting for, after the end mark."""
_LISTING = Timeouts(connect=5, first_token=15, idle=15, total=15)
_MAX_LEARNED = 1000


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What a server takes. Where it is not known beforehand, a refusal that names the field teaches it.

    `max_tokens` is the name that every server but OpenAI's knows, and those that do not know
    `max_completion_tokens` pass over it in silence, which would leave an answer without its limit; OpenAI's newer
    models refuse `max_tokens`.
    """

    limit: str = "max_tokens"
    stream_options: bool = True


class OpenAIChat:
    """One account at one server. Built outside a loop, used in one."""

    def __init__(
        self, config: ProviderConfig, *, now: Callable[[], float] = time.time, max_event_bytes: int = MAX_EVENT_BYTES
    ) -> None:
        """Raises `ConfigurationError`."""
        self.name = config.name
        base_url = _base_url(config)
        self._chat_url = base_url.copy_with(path=base_url.path + "/chat/completions")
        self._models_url = base_url.copy_with(path=base_url.path + "/models")
        self._upstream = Upstream(base_url)
        self._keys = cycle(config.api_keys or ("",))
        self._scrub = Scrubber(config.api_keys)
        self._now = now
        self._max_event_bytes = max_event_bytes
        self._dialect = _first_dialect(base_url)
        self._learned: dict[str, _Dialect] = {}

    @asynccontextmanager
    async def stream(self, call: Call, timeouts: Timeouts) -> AsyncIterator[AsyncIterator[Piece]]:
        patience = Patience(timeouts)
        response: httpx.Response | None = None
        try:
            response = await patience.wait(partial(self._open, call, timeouts.connect))
            whole = response.headers.get("content-type", "").startswith("application/json")
            pieces = (self._at_once if whole else self._streamed)(response, call, patience)
            async with aclosing(pieces):
                yield pieces
        finally:
            patience.close()
            if response is not None:
                await response.aclose()

    async def models(self) -> list[str]:
        patience = Patience(_LISTING)
        try:
            return await patience.wait(self._list)
        finally:
            patience.close()

    async def aclose(self) -> None:
        await self._upstream.aclose()

    async def _open(self, call: Call, connect: float) -> httpx.Response:
        """The head of an accepted answer. A refusal that teaches the server's dialect is answered in it, at once."""
        known = dialect = self._learned.get(call.model, self._dialect)
        tried: set[_Dialect] = set()
        while True:
            tried.add(dialect)
            response = await self._request("POST", self._chat_url, connect, orjson.dumps(_body(call, dialect)))
            if response.is_success:
                if dialect != known:
                    self._learn(call.model, dialect)
                return response
            body = await _error_body(response)
            better = _taught(dialect, response.status_code, body)
            if better is None or better in tried:
                raise self._refusal(response, body, call)
            dialect = better

    def _learn(self, model: str, dialect: _Dialect) -> None:
        if len(self._learned) >= _MAX_LEARNED:
            self._learned.clear()
        self._learned[model] = dialect

    async def _streamed(self, response: httpx.Response, call: Call, patience: Patience) -> AsyncGenerator[Piece, None]:
        yield Opened(_request_id(response))
        answer, events, read = ChatAnswer(), EventReader(self._max_event_bytes), _reading(response)
        ended = False
        while not (answer.done or ended):
            try:
                came = await patience.wait(read)
            except (ProviderTimeout, *FAILURES) as error:
                came = _end_of(answer, error)
            ended = not came
            text = answer.feed(events.feed(came) if came else events.close())
            if answer.started:
                patience.first_token_came()
            if text:
                yield TextDelta(text)
            if answer.reason is not None:
                patience.expect_end(_AFTER_FINISH_SECONDS)
            self._raise_failure(answer, call)
        if text := answer.close():
            yield TextDelta(text)
        yield answer.finished()
        await _drain(read)

    async def _at_once(self, response: httpx.Response, call: Call, patience: Patience) -> AsyncGenerator[Piece, None]:
        """For a server that does not stream, or says under status 200 that it failed."""
        answer = ChatAnswer()
        text = answer.feed_whole(await patience.wait(partial(_body_of, response, self._max_event_bytes)))
        text += answer.close()
        self._raise_failure(answer, call)
        finished = answer.finished()
        yield Opened(_request_id(response))
        if text:
            yield TextDelta(text)
        yield finished

    def _raise_failure(self, answer: ChatAnswer, call: Call) -> None:
        if answer.error is not None:
            raise failure_in_stream(answer.error, self._message(answer.error, call))
        if answer.failure is not None:
            raise answer.failure

    async def _list(self) -> list[str]:
        response = await self._request("GET", self._models_url, _LISTING.connect, None)
        try:
            if not response.is_success:
                raise self._refusal(response, await _error_body(response), None)
            body = _json(await _body_of(response, self._max_event_bytes))
        finally:
            await response.aclose()
        models = body.get("data") if isinstance(body, Mapping) else None
        if not isinstance(models, list):
            raise ProviderProtocolError("The provider's list of models is not one.")
        return [clean(model["id"]) for model in models if isinstance(model, dict) and isinstance(model.get("id"), str)]

    async def _request(self, method: str, url: httpx.URL, connect: float, content: bytes | None) -> httpx.Response:
        headers = {
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": "runstream",
        }
        if key := next(self._keys):
            headers["Authorization"] = f"Bearer {key}"
        return await self._upstream.send(method, url, headers, content, connect)

    def _refusal(self, response: httpx.Response, body: object, call: Call | None) -> ProviderError:
        wait = retry_after(response.headers, self._now())
        return failure_of_status(response.status_code, self._message(body, call), wait)

    def _message(self, body: object, call: Call | None) -> str:
        return self._scrub(message_of(body), _prompts(call) if call else ())


def _base_url(config: ProviderConfig) -> httpx.URL:
    address = config.base_url.strip()
    try:
        parts = urlsplit(address)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            url = httpx.URL(address)
            return url.copy_with(path=url.path.rstrip("/"))
    except (ValueError, httpx.InvalidURL):
        pass
    raise ConfigurationError(
        f"Give the provider '{config.name}' a base_url that begins with http:// or https://, "
        "such as https://api.openai.com/v1."
    )


def _first_dialect(url: httpx.URL) -> _Dialect:
    openai = url.host == "api.openai.com" or url.host.endswith(".openai.azure.com")
    return _Dialect(limit="max_completion_tokens") if openai else _Dialect()


def _body(call: Call, dialect: _Dialect) -> dict[str, Any]:
    prompt = call.prompt
    body: dict[str, Any] = {"model": call.model, "messages": list(prompt.messages), "stream": True}
    if dialect.stream_options:
        body["stream_options"] = {"include_usage": True}
    if prompt.temperature is not None:
        body["temperature"] = prompt.temperature
    if prompt.max_output_tokens is not None:
        body[dialect.limit] = prompt.max_output_tokens
    if prompt.stop:
        body["stop"] = list(prompt.stop)
    if prompt.response_format is not None:
        body["response_format"] = prompt.response_format
    return body


def _taught(dialect: _Dialect, status: int, body: object) -> _Dialect | None:
    """The dialect that a refusal asks for, if it is about one: it names the field, and says that it is not known."""
    if status not in {400, 422}:
        return None
    said = orjson.dumps(body, default=str).decode().lower()
    if not any(stem in said for stem in _UNKNOWN_FIELD):
        return None
    if dialect.stream_options and "stream_options" in said:
        return replace(dialect, stream_options=False)
    if dialect.limit in said:
        return replace(dialect, limit=_OTHER_LIMIT[dialect.limit])
    return None


_OTHER_LIMIT = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_UNKNOWN_FIELD = ("unsupported", "not supported", "unknown", "unrecognized", "unexpected", "not permitted", "extra")


def _prompts(call: Call) -> Iterator[str]:
    for message in call.prompt.messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        for part in parts:
            if isinstance(part, Mapping) and isinstance(text := part.get("text"), str):
                yield text


def _request_id(response: httpx.Response) -> str | None:
    for name in ("x-request-id", "apim-request-id"):
        if value := response.headers.get(name):
            return clean(value)[:200]
    return None


def _reading(response: httpx.Response) -> Callable[[], Awaitable[bytes]]:
    """Reads what has come of the body, and nothing at its end; decoded where a server compresses unasked."""
    if response.headers.get("content-encoding", "identity") == "identity":
        return cast(Body, response.stream).read
    decoded = response.aiter_bytes()
    return lambda: anext(decoded, b"")


def _end_of(answer: ChatAnswer, error: Exception) -> bytes:
    """The end, for what stopped a read: after a finish reason no failure is more than that."""
    if answer.reason is not None:
        return b""
    if isinstance(error, ProviderTimeout):
        raise error
    raise ProviderProtocolError("The provider's answer broke off.") from error


async def _body_of(response: httpx.Response, limit: int) -> bytes:
    body = bytearray()
    try:
        async for read in response.aiter_bytes():
            body += read
            if len(body) > limit:
                raise ProviderProtocolError(f"The provider sent an answer larger than {limit} bytes.")
    except FAILURES as error:
        raise ProviderProtocolError("The provider's answer broke off.") from error
    return bytes(body)


async def _error_body(response: httpx.Response) -> object:
    """What a refusal says, as JSON or text; nothing, where it does not come within seconds or is neither."""
    try:
        async with asyncio.timeout(_ERROR_BODY_SECONDS):
            body = await _body_of(response, _MAX_ERROR_BYTES)
    except (TimeoutError, ProviderProtocolError):
        return ""
    finally:
        await response.aclose()
    if response.headers.get("content-type", "").startswith("text/plain"):
        return body.decode(errors="replace")
    try:
        return _json(body)
    except ProviderProtocolError:
        return ""


def _json(body: bytes) -> object:
    try:
        return cast(object, orjson.loads(body))
    except orjson.JSONDecodeError:
        raise ProviderProtocolError("The provider's answer is not JSON.") from None


async def _drain(read: Callable[[], Awaitable[bytes]]) -> None:
    """Read on to the end of the body, if it is there already: then the connection can serve the next call."""
    with suppress(TimeoutError, *FAILURES):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while await read():
                pass
