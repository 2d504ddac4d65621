"""The loop that sends what runs say: it outlives whatever one of them says, and whatever Redis answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import pytest
from redis.asyncio import Redis

from runstream.domain.events import DELTA, REASONING, STARTED, TOOL_CALL, Event
from runstream.redis_script import Scripts
from runstream.stream.log import Append, TokenLog, key, parse
from runstream.stream.writer import WriteLoop

DEADLINE = 20


def token_log(redis: Redis) -> TokenLog:
    return TokenLog(redis, Scripts(redis, timeout=DEADLINE), ttl=60, ended_ttl=60)


@asynccontextmanager
async def write_loop(redis: Redis, lease_holds: Callable[[], bool] = lambda: True) -> AsyncIterator[WriteLoop]:
    loop = WriteLoop(token_log(redis), lease_holds)
    running = asyncio.create_task(loop.run())
    try:
        yield loop
        assert not running.done()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def never_fenced() -> None:
    raise AssertionError("nobody else writes here")


async def test_a_delta_without_text_is_nothing_to_send(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis, write_loop(redis) as loop:
        writer = loop.open("run_quiet", 1, never_fenced)
        writer.append(DELTA, {"text": ""})
        writer.append(STARTED, {})
        assert await writer.flush(DEADLINE)
        writer.append(DELTA, {"text": ""})
        other = loop.open("run_other", 1, never_fenced)
        other.append(DELTA, {"text": "heard"})
        assert await other.flush(DEADLINE)
        assert await redis.xlen(key("run_quiet")) == 1


@pytest.mark.promise("P2")
async def test_much_that_is_said_at_once_is_many_entries_and_the_same_text(redis_url: str) -> None:
    """A reader takes in one entry after the other, and can be slow."""
    said = [
        (DELTA, "text", "🙂é" * 20_000),
        (REASONING, "text", "why " * 5_000),
        (TOOL_CALL, "arguments", "1" * 16_385),
    ]
    async with Redis.from_url(redis_url) as redis, write_loop(redis) as loop:
        writer = loop.open("run_much", 1, never_fenced)
        writer.append(STARTED, {})
        for type_, field, text in said:
            writer.append(type_, {"index": 0, field: text} if type_ == TOOL_CALL else {field: text})
        assert await writer.flush(DEADLINE)
        events = [parse(entry_id, body[b"e"]).event() for entry_id, body in await redis.xrange(key("run_much"))]
    assert all(event.start == before.end for before, event in pairwise(events))
    assert max(event.end - event.start for event in events) == 16_384
    for type_, field, text in said:
        of_type = [event.data for event in events if event.type == type_]
        assert "".join(data[field] for data in of_type) == text
        assert all(data.get("index") == (0 if type_ == TOOL_CALL else None) for data in of_type)


@pytest.mark.promise("P2")
async def test_what_a_full_redis_refuses_is_sent_once_there_is_room(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis, write_loop(redis) as loop:
        writer = loop.open("run_refused", 1, never_fenced)
        writer.append(STARTED, {})
        assert await writer.flush(DEADLINE)
        await redis.config_set("maxmemory", "1")
        try:
            await redis.config_resetstat()
            writer.append(DELTA, {"text": "kept"})
            assert not await writer.flush(1)
            calls = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
            assert calls < 20, "it asks again and again without a pause"
        finally:
            await redis.config_set("maxmemory", "0")
        assert await writer.flush(DEADLINE)
        assert [entry_id for entry_id, _ in await redis.xrange(key("run_refused"))] == [b"1-1", b"1-5"]


@pytest.mark.promise("P3")
async def test_a_writer_whose_run_a_newer_attempt_writes_is_told_and_does_not_wait(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis, write_loop(redis) as loop:
        newer = loop.open("run_taken", 2, never_fenced)
        newer.append(STARTED, {})
        assert await newer.flush(DEADLINE)
        told = asyncio.Event()
        older = loop.open("run_taken", 1, told.set)
        older.append(DELTA, {"text": "late"})
        async with asyncio.timeout(DEADLINE):
            assert not await older.flush(2 * DEADLINE)
            await told.wait()
        assert [entry_id for entry_id, _ in await redis.xrange(key("run_taken"))] == [b"2-1"]


@pytest.mark.promise("P2")
async def test_what_the_log_holds_already_is_not_sent_again_and_the_rest_is(redis_url: str) -> None:
    """The answer to the first call was lost on its way, and more was said meanwhile."""
    async with Redis.from_url(redis_url) as redis, write_loop(redis) as loop:
        first = [Event(1, 0, 1, STARTED, {}), Event(1, 1, 3, DELTA, {"text": "ab"})]
        await token_log(redis).append([Append("run_ahead", 1, 0, first)])
        writer = loop.open("run_ahead", 1, never_fenced)
        writer.append(STARTED, {})
        writer.append(DELTA, {"text": "ab"})
        writer.append(DELTA, {"text": "cd"})
        assert await writer.flush(DEADLINE)
        held = await redis.xrange(key("run_ahead"))
        assert [entry_id for entry_id, _ in held] == [b"1-1", b"1-3", b"1-5"]
        assert held[-1][1] == {b"e": b'3 run.delta {"text":"cd"}'}


@pytest.mark.promise("P3")
async def test_a_log_is_neither_begun_nor_put_back_while_the_lease_does_not_hold(redis_url: str) -> None:
    held = True
    async with Redis.from_url(redis_url) as redis, write_loop(redis, lambda: held) as loop:
        going, new = (loop.open(run_id, 1, never_fenced) for run_id in ("run_going", "run_new"))
        going.append(STARTED, {})
        assert await going.flush(DEADLINE)
        held = False
        new.append(STARTED, {})
        going.append(DELTA, {"text": "on"})
        assert await going.flush(DEADLINE), "a log that is there is written on"
        await redis.flushall()
        going.append(DELTA, {"text": "lost"})
        assert not await going.flush(0.5)
        assert await redis.dbsize() == 0
        held = True
        assert await going.flush(DEADLINE)
        assert await new.flush(DEADLINE)
        assert await redis.xlen(key("run_going")) == 2


async def test_a_writer_that_has_lost_its_run_puts_nothing_back_and_holds_nobody_up(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis, write_loop(redis) as loop:
        lost, other = (loop.open(run_id, 1, never_fenced) for run_id in ("run_lost", "run_other"))
        lost.taken = True
        lost.append(STARTED, {})
        other.append(STARTED, {})
        assert await other.flush(DEADLINE)
        loop.drop(lost)
        other.append(DELTA, {"text": "on"})
        assert await other.flush(DEADLINE)
        assert await redis.keys(key("*")) == [key("run_other").encode()]
