"""The loop that sends what runs say: it outlives whatever one of them says, and whatever Redis answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from redis.asyncio import Redis

from runstream.domain.events import DELTA, STARTED
from runstream.stream.log import TokenLog, key
from runstream.stream.writer import WriteLoop

DEADLINE = 20


@asynccontextmanager
async def write_loop(redis: Redis) -> AsyncIterator[WriteLoop]:
    loop = WriteLoop(TokenLog(redis, timeout=DEADLINE, ttl=60, ended_ttl=60))
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
