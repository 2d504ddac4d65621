"""A reader that missed something reads on from history, though nothing comes afterwards that would show the gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress

import pytest
from redis.asyncio import Redis

from runstream.api.events import frame
from runstream.domain.cursor import START, Cursor
from runstream.domain.events import DELTA, STARTED, Event
from runstream.redis_script import Scripts
from runstream.stream.hub import Frame, Hub
from runstream.stream.log import Append, TokenLog, key
from runstream.stream.reader import Reader

pytestmark = pytest.mark.promise("P2")

DEADLINE = 20
RUN, MARK = "run_read", "run_mark"
BEGUN = Event(1, 0, 1, STARTED, {})
FEW = 120
"""Bytes: two events or so fill a reader's buffer."""

Batches = AsyncGenerator[Sequence[Frame]]


@asynccontextmanager
async def open_hub(redis: Redis, buffer: int) -> AsyncIterator[Hub]:
    hub = Hub(redis, frame, buffer=buffer, heartbeat=10 * DEADLINE, max_age=100 * DEADLINE)
    running = asyncio.create_task(hub.run())
    try:
        async with asyncio.timeout(DEADLINE):
            while not hub.connected:
                await asyncio.sleep(0.001)
        yield hub
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def open_log(redis: Redis) -> TokenLog:
    return TokenLog(redis, Scripts(redis, timeout=DEADLINE), ttl=60, ended_ttl=60)


async def not_ended(_: Cursor) -> None:
    return None


async def read(batches: Batches, length: int) -> str:
    """The text of the next frames, until there are `length` characters of it."""
    text = ""
    async with asyncio.timeout(DEADLINE):
        while len(text) < length:
            entries = [entry for entry, _ in await anext(batches)]
            text += "".join(entry.event().data["text"] for entry in entries if entry.type == DELTA)
    return text


def letter(position: int, text: str) -> Event:
    return Event(1, position, position + 1, DELTA, {"text": text})


async def test_a_frame_that_was_lost_on_its_way_is_read_from_history(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis, open_hub(redis, 1_000_000) as hub:
        log = open_log(redis)
        reader = Reader(RUN, START, hub=hub, token_log=log, rest=not_ended)
        async with aclosing(reader.frames()) as batches:
            await log.append([Append(RUN, 1, 0, [BEGUN, letter(1, "a")])])
            assert await read(batches, 1) == "a"
            await redis.xadd(key(RUN), {"e": b'2 run.delta {"text":"b"}'}, id="1-3")
            await log.append([Append(RUN, 1, 3, [letter(3, "c")])])
            assert await read(batches, 2) == "bc"


async def test_what_did_not_fit_a_slow_reader_s_buffer_is_read_from_history(redis_url: str) -> None:
    """The last of it, too: no later frame tells the reader that something is missing."""
    async with Redis.from_url(redis_url) as redis, open_hub(redis, FEW) as hub:
        log = open_log(redis)
        with hub.subscribe(MARK) as mark:
            await mark.wait()
            mark.behind = False
            reader = Reader(RUN, START, hub=hub, token_log=log, rest=not_ended)
            async with aclosing(reader.frames()) as batches:
                await log.append([Append(RUN, 1, 0, [BEGUN, letter(1, "a")])])
                assert await read(batches, 1) == "a"
                await log.append([Append(RUN, 1, 2, [letter(at, "b") for at in range(2, 12)])])
                await log.append([Append(MARK, 1, 0, [BEGUN])])
                async with asyncio.timeout(DEADLINE):
                    await mark.wait()  # what was published before has come to the hub before
                assert await read(batches, 10) == 10 * "b"
