"""A response that the provider keeps, and goes on with by itself: read over as many connections as it takes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import cast
from urllib.parse import quote

import httpx
import structlog

from runstream.domain.errors import (
    ProviderAnswerLost,
    ProviderError,
    ProviderProtocolError,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
)
from runstream.providers.account import MAX_EVENT_BYTES, Account, error_body
from runstream.providers.base import Call, Opened, Piece, Timeouts
from runstream.providers.patience import Patience
from runstream.providers.responses_events import ResponseAnswer, can_be_asked_for
from runstream.providers.sse import EventReader
from runstream.providers.upstream import FAILURES, Body, failure_of

_PAUSES = (0.1, 0.5, 1.0, 2.0, 4.0)
"""Seconds before each of the connections in a row that bring nothing new."""
_LOOKED_AT = 3
"""Which of the failures in a row has the answer looked at: two streams have brought nothing then."""
_POLL = 2.0
"""Seconds between two looks at an answer that is not streamed any more."""
_STOPPING = 10.0
"""Seconds that having an answer stopped may take, with all that it waits for."""
_MAY_PASS = (ProviderProtocolError, ProviderUnavailable, ProviderRateLimited)
_NO_LONGER_STREAMED = 400
_NOT_FOUND = 404

log = structlog.get_logger(__name__)


class KeptResponse:
    """One call's; in use by one task until it has been left."""

    def __init__(
        self, account: Account, call: Call, timeouts: Timeouts, ask: Callable[[str], Awaitable[httpx.Response]]
    ) -> None:
        """`ask` asks for the answer with a key, and gives its head."""
        self._account = account
        self._call = call
        self._timeouts = timeouts
        self._ask = ask
        self._answer = ResponseAnswer(in_background=True)
        self._patience = Patience(timeouts)
        self._key = account.keys.next()
        self._id = call.resume
        self._asking: asyncio.Task[httpx.Response] | None = None
        self._streamed = True
        self._lost = False
        self._failures = 0
        self._known: tuple[int | None, bool] = (None, False)

    @property
    def wants_stopping(self) -> bool:
        """The provider works on it, or is about to, for nobody: what nobody was told the id of, nobody can take up."""
        if self._lost or self._answer.ended:
            return False
        if self._call.resume is None and self._answer.id is None:
            return self._id is not None or (self._asking is not None and not self._asking.done())
        return not self._call.keep()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncIterator[Piece]]:
        """See `Provider.stream`."""
        open_ = self._begin if self._call.resume is None else self._resume
        async with self._connection(open_) as pieces, aclosing(self._pieces(pieces)) as all_pieces:
            yield all_pieces

    async def stop(self) -> None:
        """Have the provider stop, once the answer's id is known: as well as that can be done in ten seconds."""
        stopped = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOPPING):
                if self._id is None and self._asking is not None:
                    try:
                        await (await self._asking).aclose()
                    except ProviderError:
                        return
                stopped = await self._stopped()
        if not stopped:
            log.warning("answer_not_stopped", response_id=self._id)

    # Its connections.

    def _connection(
        self, open_: Callable[[], Awaitable[httpx.Response]]
    ) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        return self._account.answer(open_, self._answer, self._call, self._timeouts, self._patience)

    async def _pieces(self, first: AsyncIterator[Piece]) -> AsyncGenerator[Piece, None]:
        connection: AbstractAsyncContextManager[AsyncIterator[Piece]] = nullcontext(first)
        opened = False
        while True:
            try:
                async with connection as pieces:
                    async for piece in pieces:
                        if not isinstance(piece, Opened):
                            yield piece
                        elif not opened:
                            opened = True
                            yield piece
            except ProviderError as error:
                pause = self._pause_after(error)
            else:
                return
            await self._patience.wait(partial(asyncio.sleep, pause))
            connection = self._connection(self._go_on)

    def _pause_after(self, error: ProviderError) -> float:
        """Seconds until it is read on. Raises the error where that would not help."""
        answer = self._answer
        pending, answer.pending = answer.pending, False
        if pending and not self._streamed:
            self._failures = 0
            return _POLL
        final = answer.ended or answer.failure is not None or not isinstance(error, _MAY_PASS)
        if final or self._at is None:
            raise error
        if self._known != (known := (answer.sequence, answer.started)):
            self._known, self._failures = known, 0
        if self._failures >= len(_PAUSES):
            raise error
        self._failures += 1
        return _PAUSES[self._failures - 1]

    @property
    def _at(self) -> httpx.URL | None:
        name = self._answer.id or self._id
        return None if name is None else self._account.url(f"/responses/{quote(name, safe='')}")

    # Its requests.

    async def _begin(self) -> httpx.Response:
        """Asked for in a task of its own: whoever leaves meanwhile leaves an answer whose id has yet to come."""
        self._asking = asyncio.create_task(self._asked())
        return await asyncio.shield(self._asking)

    async def _asked(self) -> httpx.Response:
        if self._call.take_key is not None:
            self._key = await self._call.take_key()
        response = await self._ask(self._key)
        try:
            self._id = await _id_in_first_event(response)
        except BaseException:
            await response.aclose()
            raise
        return response

    async def _resume(self) -> httpx.Response:
        if not can_be_asked_for(self._call.resume or ""):
            self._lost = True
            raise ProviderAnswerLost
        for pause in _PAUSES:
            try:
                return await self._found()
            except (ProviderUnavailable, ProviderRateLimited):
                await asyncio.sleep(pause)
        return await self._found()

    async def _found(self) -> httpx.Response:
        """As `_go_on`, with each key: who had asked for it may have had another."""
        keys = [self._key, *(key for key in self._account.keys.known if key != self._key)]
        for self._key in keys[:-1]:
            try:
                return await self._go_on()
            except ProviderAnswerLost:
                self._lost = False
        self._key = keys[-1]
        return await self._go_on()

    async def _go_on(self) -> httpx.Response:
        """The head of the rest, as a stream; as JSON, where it is not streamed any more. Raises a `ProviderError`.

        Also where two streams in a row brought nothing: it may have ended in a way that they do not tell.
        """
        numbered = self._answer.sequence is not None or not self._answer.started
        if self._streamed and numbered and self._failures != _LOOKED_AT:
            place = {} if self._answer.sequence is None else {"starting_after": str(self._answer.sequence)}
            response = await self._get({"stream": "true", **place})
            if response.is_success:
                return response
            if response.status_code != _NO_LONGER_STREAMED:
                raise await self._refusal(response)
            await error_body(response)
            self._streamed = False
        response = await self._get({})
        if not response.is_success:
            raise await self._refusal(response)
        return response

    async def _get(self, query: dict[str, str]) -> httpx.Response:
        url = cast(httpx.URL, self._at).copy_merge_params(query)
        try:
            return await self._account.get(url, self._timeouts.connect, self._key)
        except ProviderTimeout as error:  # of connecting: what else takes time is the call's patience
            raise ProviderUnavailable(error.message) from error

    async def _refusal(self, response: httpx.Response) -> ProviderError:
        refusal = self._account.refusal(response, await error_body(response), self._call)
        if response.status_code != _NOT_FOUND:
            return refusal
        self._lost = True
        return ProviderAnswerLost(refusal.message)

    async def _stopped(self) -> bool:
        """Whether the provider was told to stop, or has nothing to be stopped."""
        place = self._at
        if place is None:
            return False
        url = place.copy_with(path=place.path + "/cancel")
        for pause in (*_PAUSES, 0):
            with suppress(ProviderError):
                response = await self._account.ask(url, {}, self._timeouts.connect, self._key)
                await error_body(response)
                if response.is_success or not isinstance(self._account.refusal(response, "", None), _MAY_PASS):
                    return True
            await asyncio.sleep(pause)
        return False


async def _id_in_first_event(response: httpx.Response) -> str | None:
    """The id that the first event of a stream gives; what was read to find it is there to be read again."""
    if response.headers.get("content-type", "").startswith("application/json"):
        return None
    body = cast(Body, response.stream)
    events, came, found = EventReader(MAX_EVENT_BYTES), list[bytes](), list[bytes]()
    read = body.read
    try:
        while not found and (more := await read()):
            came.append(more)
            found = events.feed(more)
    except FAILURES as error:
        raise failure_of(error) from error

    async def read_again() -> bytes:
        return came.pop(0) if came else await read()

    body.read = read_again
    first = ResponseAnswer(in_background=True)
    first.feed(found[:1])
    return first.id
