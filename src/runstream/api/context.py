"""Around every request: its id, its body's bounds, its line in the log."""

import asyncio
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
import structlog
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from runstream.api.errors import respond
from runstream.domain.errors import (
    InvalidRequest,
    PayloadTooLarge,
    RunstreamError,
    Unavailable,
    UnsupportedMediaType,
    whereabouts,
)
from runstream.domain.ids import new_id

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DEPTH = 64
"""Levels of nesting that a body may have."""
_LONG_NUMBER = re.compile(rb"[0-9]{17}")

_SERVER_SEND = "runstream.send"

_PROTECTED = {b"cache-control": b"no-store", b"x-content-type-options": b"nosniff"}

log = structlog.get_logger(__name__)


class Shortcut(FastAPI):
    """Lets an answer of many parts past all that stands around a request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_SERVER_SEND] = send
        await super().__call__(scope, receive, send)


def server_send(scope: Scope) -> Send:
    """The server's own `send`, for what follows an answer's head."""
    send: Send = scope[_SERVER_SEND]
    return send


def protected(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """With what keeps an answer out of caches, and from being taken for another type, where they do not say."""
    given = dict(headers)
    return [*headers, *((name, value) for name, value in _PROTECTED.items() if name not in given)]


class RequestContext:
    """Names the request in logs and in the answer, and logs how it went; never what was in it.

    An answer is kept by no cache, and taken for no other type, unless it says otherwise itself.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else new_id("req")
        status = 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = protected([*message["headers"], (b"x-request-id", request_id.encode())])
            await send(message)

        began = time.monotonic()
        with bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, named)
            except asyncio.CancelledError:  # the server ends, and waits for this one no longer
                if status:
                    raise
                ending = Unavailable("This process is being shut down: try again.", retry_after=1)
                await respond(ending)(scope, receive, named)
            except Exception as error:
                log.error("request_failed", **whereabouts(error))  # noqa: TRY400 - without what it says
                if not status:
                    await respond(RunstreamError("Something went wrong inside Runstream."))(scope, receive, named)
            finally:
                seconds = round(time.monotonic() - began, 4)
                log.info("request", method=scope["method"], path=scope["path"], status=status, seconds=seconds)


class CheckedBody:
    """Reads a body before anything else does, so that what cannot be kept is refused in one place.

    Refused are bodies larger than `limit` bytes, other types than JSON, text that Postgres cannot hold (NUL, half
    of a surrogate pair), nesting deeper than 64 levels, and numbers beyond 64 bits.
    """

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(Headers(scope=scope), receive)
        except RunstreamError as error:
            await respond(error)(scope, receive, send)
            return
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._limit:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise InvalidRequest("The body broke off.")
            part = message.get("body", b"")
            size += len(part)
            if size > self._limit:
                raise self._too_large()
            parts.append(part)
            more = message.get("more_body", False)
        body = b"".join(parts)
        if body:
            _check(body, headers.get("content-type", ""))
        return body

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"The body is larger than {self._limit} bytes.")


def _check(body: bytes, content_type: str) -> None:
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error.msg} at character {error.pos}.") from None
    if b"\\u0000" in body:
        for path, item in _walk(value):
            if isinstance(item, str) and "\0" in item:
                raise InvalidRequest("Text must not contain NUL characters.", param=path)
    if body.count(b"[") + body.count(b"{") > _DEPTH or _LONG_NUMBER.search(body):
        for path, item in _walk(value):
            if path.count(".") > _DEPTH:
                raise InvalidRequest(f"The body is nested deeper than {_DEPTH} levels.")
            if isinstance(item, int | float) and abs(item) >= 2**63:
                raise InvalidRequest("Numbers must fit in 64 bits.", param=path)


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every name and value in a document, with its path."""
    pending = [("", value)]
    while pending:
        path, item = pending.pop()
        yield path.removeprefix("."), item
        if isinstance(item, dict):
            for name, inner in item.items():
                pending.append((f"{path}.{name.replace(chr(0), '')}", inner))
                yield path.removeprefix("."), name
        elif isinstance(item, list):
            pending.extend((f"{path}.{index}", inner) for index, inner in enumerate(item))
