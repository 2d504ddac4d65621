"""An account at a server: its address and keys, its refusals, and its answers read with patience.

What all protocols share is here and in four small files: `upstream` (HTTP), `patience` (time), `sse` (bytes to
events), `failures` (refusals to errors). A protocol's own file says what it asks, and gathers what it is answered.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import cast
from urllib.parse import urlsplit

import httpx
import orjson

from runstream.domain.errors import ConfigurationError, ProviderError, ProviderProtocolError, ProviderTimeout
from runstream.domain.prompt import texts
from runstream.providers.base import Call, Opened, Piece, ProviderConfig, Timeouts
from runstream.providers.failures import Scrubber, failure_in_stream, failure_of_status, message_of, retry_after
from runstream.providers.gathering import Gathering
from runstream.providers.key_file import KeyFile
from runstream.providers.keys import REFUSED, KeyRing
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
_REQUEST_IDS = ("x-request-id", "request-id", "apim-request-id")
_HEADERS = {
    "Accept": "text/event-stream, application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "User-Agent": "runstream",
}


class Account:
    """Built outside a loop, used in one."""

    def __init__(
        self,
        config: ProviderConfig,
        *,
        authorized: Callable[[str], Mapping[str, str]],
        example: str,
        now: Callable[[], float] = time.time,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        """`authorized` gives the headers that carry a key, which is empty where there is none.

        Raises `ConfigurationError`.
        """
        self.base_url = _base_url(config, example)
        self._authorized = authorized
        self._upstream = Upstream(self.base_url)
        file = KeyFile(config.name, config.api_keys_file) if config.api_keys_file else None
        self.keys = KeyRing(config.name, config.api_keys, file)
        self._now = now
        self._max_event_bytes = max_event_bytes

    def url(self, path: str) -> httpx.URL:
        return self.base_url.copy_with(path=self.base_url.path + path)

    async def ask(
        self,
        url: httpx.URL,
        body: Mapping[str, object],
        connect: float,
        key: str | None = None,
        take_key: Callable[[], Awaitable[str]] | None = None,
    ) -> httpx.Response:
        """The answer's head, accepted or not. `connect` is in seconds. Raises a `ProviderError`.

        Without a `key`, those that do not rest, or that `take_key` gives, are tried in turn until one is neither
        refused nor limited.
        """
        content = orjson.dumps(body)
        left = len(self.keys.all) if key is None else 1
        while True:
            used = await take_key() if key is None and take_key else key
            response = await self._request("POST", url, connect, content, used)
            left -= 1
            if left <= 0 or response.status_code not in REFUSED or self.keys.rests():
                return response
            await response.aclose()

    async def get(self, url: httpx.URL, connect: float, key: str | None = None) -> httpx.Response:
        """As `ask`."""
        return await self._request("GET", url, connect, None, key)

    def refusal(self, response: httpx.Response, body: object, call: Call | None) -> ProviderError:
        wait = retry_after(response.headers, self._now())
        return failure_of_status(response.status_code, self._message(body, call), wait)

    @asynccontextmanager
    async def answer(
        self,
        open_: Callable[[], Awaitable[httpx.Response]],
        gathering: Gathering,
        call: Call,
        timeouts: Timeouts,
        patience: Patience | None = None,
    ) -> AsyncIterator[AsyncIterator[Piece]]:
        """The pieces of the answer that `open_` gets the head of; see `Provider.stream`.

        An answer that is read over several connections has one `patience` for all of them.
        """
        patience = patience or Patience(timeouts)
        response: httpx.Response | None = None
        try:
            response = await patience.wait(open_)
            whole = response.headers.get("content-type", "").startswith("application/json")
            pieces = (self._at_once if whole else self._streamed)(response, gathering, call, patience)
            async with aclosing(pieces):
                yield pieces
        finally:
            patience.close()
            if response is not None:
                await response.aclose()

    async def _streamed(
        self, response: httpx.Response, gathering: Gathering, call: Call, patience: Patience
    ) -> AsyncGenerator[Piece, None]:
        yield Opened(_request_id(response))
        events, read = EventReader(self._max_event_bytes), _reading(response)
        ended = False
        while not (gathering.done or ended):
            try:
                came = await patience.wait(read)
            except (ProviderTimeout, *FAILURES) as error:
                came = _end_of(gathering, error)
            ended = not came
            pieces = gathering.feed(events.feed(came) if came else events.close())
            if gathering.started:
                patience.first_token_came()
            for piece in pieces:
                yield piece
            if ended and gathering.failure is not None:
                gathering.failure = None  # half an event says only that the rest did not come
                raise ProviderProtocolError("The provider's answer broke off.")
            if gathering.reason is not None:
                patience.expect_end(_AFTER_FINISH_SECONDS)
            self._raise_failure(gathering, call)
        for piece in gathering.close():
            yield piece
        yield gathering.finished()
        await _drain(read)

    async def _at_once(
        self, response: httpx.Response, gathering: Gathering, call: Call, patience: Patience
    ) -> AsyncGenerator[Piece, None]:
        """For a server that does not stream, or says under status 200 that it failed."""
        pieces = gathering.feed_whole(await patience.wait(partial(_body_of, response, self._max_event_bytes)))
        pieces += gathering.close()
        self._raise_failure(gathering, call)
        finished = gathering.finished()
        yield Opened(_request_id(response))
        for piece in pieces:
            yield piece
        yield finished

    def _raise_failure(self, gathering: Gathering, call: Call) -> None:
        if gathering.error is not None:
            raise failure_in_stream(gathering.error, self._message(gathering.error, call))
        if gathering.failure is not None:
            raise gathering.failure

    async def models(self, limit: int | None = None) -> list[str]:
        """What stands at `/models`, in the form that OpenAI and Anthropic share. Raises a `ProviderError`.

        `limit` is the length of a page, for a server that gives pages.
        """
        url = self.url("/models")
        if limit is not None:
            url = url.copy_set_param("limit", limit)
        patience = Patience(_LISTING)
        try:
            return await patience.wait(partial(self._list, url))
        finally:
            patience.close()

    async def whole(self, response: httpx.Response) -> object:
        """The JSON of an answer that is not streamed. Raises a `ProviderError`."""
        try:
            if not response.is_success:
                raise self.refusal(response, await error_body(response), None)
            return json_of(await _body_of(response, self._max_event_bytes))
        finally:
            await response.aclose()

    async def _list(self, url: httpx.URL) -> list[str]:
        body = await self.whole(await self.get(url, _LISTING.connect))
        models = body.get("data") if isinstance(body, Mapping) else None
        if not isinstance(models, list):
            raise ProviderProtocolError("The provider's list of models is not one.")
        return [clean(model["id"]) for model in models if isinstance(model, dict) and isinstance(model.get("id"), str)]

    async def aclose(self) -> None:
        await self._upstream.aclose()

    async def _request(
        self, method: str, url: httpx.URL, connect: float, content: bytes | None, key: str | None
    ) -> httpx.Response:
        used = self.keys.next() if key is None else key
        headers = {**_HEADERS, **self._authorized(used)}
        response = await self._upstream.send(method, url, headers, content, connect)
        wait = retry_after(response.headers, self._now())
        self.keys.heard(used, response.status_code, response.headers, wait)
        return response

    def _message(self, body: object, call: Call | None) -> str:
        return Scrubber(self.keys.known)(message_of(body), _prompts(call) if call else ())


async def error_body(response: httpx.Response) -> object:
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
        return json_of(body)
    except ProviderProtocolError:
        return ""


def json_of(body: bytes) -> object:
    """Raises `ProviderProtocolError`."""
    try:
        return cast(object, orjson.loads(body))
    except orjson.JSONDecodeError:
        raise ProviderProtocolError("The provider's answer is not JSON.") from None


def _base_url(config: ProviderConfig, example: str) -> httpx.URL:
    address = config.base_url.strip()
    try:
        parts = urlsplit(address)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            url = httpx.URL(address)
            return url.copy_with(path=url.path.rstrip("/"))
    except (ValueError, httpx.InvalidURL):
        pass
    raise ConfigurationError(
        f"Give the provider '{config.name}' a base_url that begins with http:// or https://, such as {example}."
    )


def _prompts(call: Call) -> Iterator[str]:
    return (text for message in call.prompt.messages for text in texts(message))


def _request_id(response: httpx.Response) -> str | None:
    for name in _REQUEST_IDS:
        if value := response.headers.get(name):
            return clean(value)[:200]
    return None


def _reading(response: httpx.Response) -> Callable[[], Awaitable[bytes]]:
    """Reads what has come of the body, and nothing at its end; decoded where a server compresses unasked."""
    if response.headers.get("content-encoding", "identity") == "identity":
        return cast(Body, response.stream).read
    decoded = response.aiter_bytes()
    return lambda: anext(decoded, b"")


def _end_of(gathering: Gathering, error: Exception) -> bytes:
    """The end, for what stopped a read: after a finish reason no failure is more than that."""
    if gathering.reason is not None:
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


async def _drain(read: Callable[[], Awaitable[bytes]]) -> None:
    """Read on to the end of the body, if it is there already: then the connection can serve the next call."""
    with suppress(TimeoutError, *FAILURES):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while await read():
                pass
