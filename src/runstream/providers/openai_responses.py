"""The Responses protocol: OpenAI, Azure, and the servers that speak it too.

What is asked is here and, for the prompt itself, in `responses_prompt`; what is answered is gathered in
`responses_events`; the way in between is every protocol's: `account`. An answer in the background has one more file
of its own, `kept_response`.

The protocol knows no stop sequences. A call that has some is refused before anything is asked for: to cut the text
here would be to pay for what is cut off, and to count it wrongly.

In the background (`ProviderConfig.background`) the provider keeps the answer and goes on with it by itself, so a
connection that breaks is none of its concern:

- its id comes out as `Resumable`, and `Call.resume` reads it again from its beginning, in any process, without asking
  for another;
- within a call, a broken connection is made anew and read on from the last event's number, so the pieces stay exact;
  five failures in a row, with nothing new between them, are one failure of the call, and the call's total time counts
  whatever happens;
- OpenAI streams an answer for five minutes after it was asked for. What is refused as a stream is asked for as it
  stands until it has ended, and what was not yet said of it comes in one piece;
- a context that is left before the end has the answer stopped, unless `Call.keep()`: then it goes on, and is paid for,
  until somebody takes it up. A process that dies leaves it going as well. One whose id had not come yet when the
  context was left is stopped as soon as the id comes.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Unpack

import orjson

from runstream.providers.base import Call, Piece, ProviderConfig, Timeouts
from runstream.providers.dialects import Dialects
from runstream.providers.http_provider import HttpProvider, Options
from runstream.providers.kept_response import KeptResponse
from runstream.providers.responses_events import ResponseAnswer
from runstream.providers.responses_prompt import fields_of


@dataclass(frozen=True, slots=True)
class _Dialect:
    """OpenAI gives summaries of reasoning only to organizations that it has verified, and refuses others."""

    summary: bool = True


class OpenAIResponses(HttpProvider):
    def __init__(self, config: ProviderConfig, **options: Unpack[Options]) -> None:
        """Raises `ConfigurationError`."""
        super().__init__(config, **options)
        written = partial(_body, background=config.background)
        url = self._account.url("/responses")
        self._dialects = Dialects(self._account, url, first=_Dialect(), written=written, taught=_taught)
        self._background = config.background
        self._stopping: set[asyncio.Task[None]] = set()

    def stream(self, call: Call, timeouts: Timeouts) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        if self._background or call.resume is not None:
            return self._kept(call, timeouts)
        return self._dialects.answer(call, ResponseAnswer(), timeouts)

    async def aclose(self) -> None:
        """Waits for what is still to be stopped, which takes at most ten seconds."""
        await asyncio.gather(*self._stopping)
        await super().aclose()

    @asynccontextmanager
    async def _kept(self, call: Call, timeouts: Timeouts) -> AsyncIterator[AsyncIterator[Piece]]:
        response = KeptResponse(
            self._account, call, timeouts, lambda key: self._dialects.open(call, timeouts.connect, key)
        )
        try:
            async with response.read() as pieces:
                yield pieces
        finally:
            if response.wants_stopping:
                stopping = asyncio.create_task(response.stop())
                self._stopping.add(stopping)
                stopping.add_done_callback(self._stopping.discard)


def _body(call: Call, dialect: _Dialect, *, background: bool) -> dict[str, Any]:
    body = {"model": call.model, "stream": True, "store": background, **fields_of(call.prompt)}
    if background:
        body["background"] = True
    if "reasoning" in body and not dialect.summary:
        del body["reasoning"]["summary"]
    return body


def _taught(dialect: _Dialect, status: int, body: object) -> _Dialect | None:
    said = orjson.dumps(body, default=str).decode().lower()
    about_summary = status in {400, 403} and any(words in said for words in ("reasoning.summary", "reasoning summar"))
    return replace(dialect, summary=False) if dialect.summary and about_summary else None
