"""Redis is away, full or emptied: what is accepted, read and cancelled meanwhile, and what is there afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import httpx
import pytest
import redis

from caller import Caller, words
from reliability import (
    MakeStack,
    assert_told_the_same_after_the_end,
    flush,
    jobs,
    reading,
    rows,
    stopped,
    unicode_text,
    until_status,
    user,
)
from stack import Stack
from viewer import DEADLINE, Viewer
from waiting import until

AWAY = 15
"""Seconds: longer than any wait for Redis."""
ANSWER = 6
"""Seconds that a request may take while Redis does not answer; the first call to it gives up after two."""


@contextmanager
def killed(stack: Stack) -> Iterator[None]:
    """Connections are refused; it comes back empty."""
    stack.valkey.kill()
    try:
        yield
    finally:
        stack.valkey.start()


@contextmanager
def stalled(stack: Stack) -> Iterator[None]:
    """Connections are accepted, and nothing is answered."""
    with stopped(stack.valkey.pid):
        yield


@contextmanager
def full(stack: Stack) -> Iterator[None]:
    with redis.Redis.from_url(stack.redis_url, socket_timeout=DEADLINE) as client:
        client.config_set("maxmemory", "100kb")
        try:
            yield
        finally:
            client.config_set("maxmemory", "0")


async def heartbeats(stack: Stack, caller: Caller, run_id: str, wanted: int) -> None:
    """Read, from the beginning, until so many comments have come."""
    found = 0
    async with caller.http.stream("GET", f"/v1/runs/{run_id}/events") as response:
        async for data in response.aiter_raw():
            found += data.count(b": keep-alive\n\n")
            if found >= wanted:
                return
    raise AssertionError("the stream ended")


async def in_time(answer: asyncio.Future) -> httpx.Response:
    began = time.monotonic()
    answered = await answer
    assert time.monotonic() - began < ANSWER
    return answered


@pytest.mark.promise("P1", "P2", "P6")
@pytest.mark.parametrize("gone", [killed, stalled])
async def test_all_goes_on_by_postgres_while_redis_is_away_for_long_and_readers_have_everything_afterwards(
    make_stack: MakeStack, gone: type
) -> None:
    stack = make_stack(heartbeat=1)
    async with user(stack) as caller:
        ended = await caller.create("unicode:50")
        await caller.ended(ended)
        long, short, unwanted = [await caller.create(f"unicode:{count}:50") for count in (1000, 200, 3000)]
        async with reading(stack, caller, long) as viewer, reading(stack, caller, short) as short_viewer:
            await viewer.until(lambda viewer: viewer.position > 50)
            await short_viewer.until(lambda viewer: viewer.position > 50)
            with gone(stack):
                back = asyncio.create_task(asyncio.sleep(AWAY))
                accepted = await asyncio.gather(*(in_time(caller.post("sim:5")) for _ in range(20)))
                assert {answer.status_code for answer in accepted} == {202}
                cancelled = await in_time(caller.http.post(f"/v1/runs/{unwanted}/cancel"))
                assert cancelled.status_code == 200
                await until_status(stack, unwanted, "cancelled")
                async with Viewer(caller.key, ended) as late:
                    await late.read(stack.url)
                    assert late.text == unicode_text(50)
                await heartbeats(stack, caller, long, 3)
                await short_viewer.until(lambda viewer: viewer.end is not None)
                assert not back.done(), "all this is to happen while Redis is away"
                await back
        for each, count in ((viewer, 1000), (short_viewer, 200)):
            assert (each.attempt, each.text) == (1, unicode_text(count))
        for answer in accepted:
            assert (await caller.ended(answer.json()["id"]))["output"]["text"] == words(5)
        await until(lambda: not stack.provider_stats()["open_streams"], "the calls are closed")
        await assert_told_the_same_after_the_end(stack, caller, viewer)


@pytest.mark.promise("P1", "P5")
async def test_the_jobs_of_a_worker_that_was_lost_meanwhile_are_gone_when_redis_is_back(make_stack: MakeStack) -> None:
    stack = make_stack()
    async with user(stack) as caller:
        run_ids = [await caller.create("hang:1") for _ in range(3)]
        for run_id in run_ids:
            await until_status(stack, run_id, "running")
        doomed = stack.workers[0]
        saviour = await asyncio.to_thread(stack.start_worker)
        with stalled(stack):
            stack.kill(doomed)
            for run_id in run_ids:
                await until_status(stack, run_id, "queued")
            await until(lambda: "sweep_failed" in saviour.output(), "the sweep has given up what it asks of Redis")
        for run_id in run_ids:
            await until_status(stack, run_id, "running")
            await caller.cancel(run_id)
            await until_status(stack, run_id, "cancelled")
    await until(lambda: not jobs(stack), "no job is left")


@pytest.mark.promise("P1", "P2")
async def test_all_goes_on_while_redis_is_full(make_stack: MakeStack) -> None:
    stack = make_stack(heartbeat=1)
    async with user(stack) as caller:
        long, short = [await caller.create(f"unicode:{count}:50") for count in (500, 150)]
        async with reading(stack, caller, long) as viewer, reading(stack, caller, short) as short_viewer:
            await viewer.until(lambda viewer: viewer.position > 50)
            await short_viewer.until(lambda viewer: viewer.position > 50)
            with full(stack):
                accepted = await in_time(caller.post("sim:5"))
                assert accepted.status_code == 202
                await short_viewer.until(lambda viewer: viewer.end is not None)
                assert viewer.end is None
                assert (await caller.get(accepted.json()["id"]))["status"] == "queued"
        for each, count in ((viewer, 500), (short_viewer, 150)):
            assert (each.attempt, each.text) == (1, unicode_text(count))
        assert (await caller.ended(accepted.json()["id"]))["output"]["text"] == words(5)


@pytest.mark.promise("P1", "P2")
async def test_many_streams_stay_exact_though_redis_is_emptied_and_replaced_under_them(make_stack: MakeStack) -> None:
    stack = make_stack(apis=2, heartbeat=1)
    async with user(stack) as caller, AsyncExitStack() as all_read:
        viewers = []
        for _ in range(25):
            run_id = await caller.create("unicode:500:100")
            viewers.append(await all_read.enter_async_context(reading(stack, caller, run_id)))
        later = []
        for position in (100, 500, 900):
            await viewers[-1].until(lambda viewer, position=position: viewer.position > position)
            flush(stack)
            later.append(await caller.create("sim:5"))
            with killed(stack):
                pass
        for run_id in later:
            assert (await caller.ended(run_id))["status"] == "completed"
        await all_read.aclose()
        for viewer in viewers:
            assert (viewer.attempt, viewer.text) == (1, unicode_text(500))
        assert {row["attempt"] for row in await rows(stack, "select attempt from runs")} == {1}


@pytest.mark.promise("P6")
async def test_a_worker_hears_of_cancels_again_after_redis_stalled(make_stack: MakeStack) -> None:
    """Its lease is renewed so seldom that nothing but the announcement tells it in time."""
    stack = make_stack(lease=600, lease_interval=300)
    async with user(stack) as caller:
        with stopped(stack.valkey.pid):
            await until(lambda: "control_channel_lost" in stack.workers[0].output(), "the dead channel is noticed")
        run_id = await caller.create("unicode:3000:50")
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: viewer.position > 50)
            await until(lambda: channels(stack) == 1, "the worker listens again")
            await caller.cancel(run_id)
        assert viewer.end == ("run.cancelled", {"partial": True})


def channels(stack: Stack) -> int:
    with redis.Redis.from_url(stack.redis_url, socket_timeout=DEADLINE) as client:
        return len(client.pubsub_channels("runstream:worker:*"))
