"""How what is said gets into a shared call: from a provider, or from the process that asks one."""

import asyncio
from collections.abc import Callable

from redis.exceptions import RedisError

from runstream.domain.cursor import Cursor
from runstream.domain.errors import ProviderError, ProviderProtocolError, SharedCallLost
from runstream.domain.events import COUNTED
from runstream.domain.prompt import Prompt
from runstream.gateway.generate import Gateway
from runstream.gateway.routes import RouteQuery
from runstream.providers.base import Finished, Opened, Piece
from runstream.runs.attempt import Attempt
from runstream.runs.sharing.call import Finish, SharedCall, heard
from runstream.stream.log import Entry, TokenLog

_POLL = 0.03
"""Seconds from look to look at what another process is told."""


async def make(call: SharedCall, leader: Attempt, gateway: Gateway, prompt: Prompt) -> Finish:
    """Ask a provider for the leader, and take in what it says. Raises what that raises."""
    finish = None
    async with gateway.generate(RouteQuery.of(leader.claim), prompt, leader) as answer:
        for piece in answer.head:
            finish = _take(call, leader, piece)
        try:
            async for piece in answer.rest:
                finish = _take(call, leader, piece)
        except ProviderError as error:  # to be known before the call is left
            leader.failure = error
            raise
        if finish is None:
            raise ProviderProtocolError("The provider's answer ended without a finish reason.")
    return finish


def _take(call: SharedCall, leader: Attempt, piece: Piece) -> Finish | None:
    match piece:
        case Opened(request_id):
            leader.request_id = request_id
        case Finished(reason, usage):
            leader.usage = usage
            return Finish(reason, leader.tried[-1], usage)
        case _:
            call.take(piece)
    return None


async def follow(call: SharedCall, token_log: TokenLog, is_lost: Callable[[], bool]) -> None:
    """Take in what the call's log says, until its end, or until it says nothing and the call is lost."""
    while True:
        try:
            entries, more = await token_log.read(call.name, Cursor(1, call.transcript.end))
        except (RedisError, OSError, TimeoutError):
            entries, more = [], False
        for entry in entries:
            _take_in(call, entry)
        if not entries and is_lost():
            call.end(SharedCallLost())
        if call.over:
            return
        if not more:
            await asyncio.sleep(_POLL)


def _take_in(call: SharedCall, entry: Entry) -> None:
    """What is known already may come again, in a larger piece. A log that is of no call any more was taken away."""
    reached = call.transcript.end
    if entry.attempt > call.transcript.attempt:
        call.end(SharedCallLost())
        return
    if entry.end <= reached:
        return
    if entry.type in COUNTED:
        event = (entry.after(reached) if entry.start < reached else entry).event()
        call.append(event.type, event.data)
    else:
        call.end(heard(entry.type, entry.event().data))
