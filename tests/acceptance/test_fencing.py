"""A worker that stood still past its lease and goes on adds nothing, wherever it stood and whatever Redis has lost."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpx
import psutil
import pytest
import redis

from caller import Caller, own_model, words
from proxy import Proxy
from reliability import (
    assert_told_the_same_after_the_end,
    flush,
    logged,
    outcomes,
    reading,
    rows,
    stopped,
    unicode_text,
    user,
)
from runstream.crash_points import Point
from runstream.embedded.port import free_port
from stack import Process, Stack
from viewer import DEADLINE, Viewer
from waiting import until

pytestmark = pytest.mark.promise("P3")

LOST = {"attempt": 2, "reason": "worker_lost"}


@pytest.fixture(scope="module")
def standing(make_shared_stack: Callable[..., Stack]) -> Stack:
    return make_shared_stack(workers=0, lease="2", lease_interval="0.4", sweep_interval="0.3")


@pytest.fixture
def stack(standing: Stack) -> Iterator[Stack]:
    """One API process; each test adds the worker that stands still, and the one that goes on."""
    yield standing
    for process in list(standing.workers):
        standing.kill(process)


async def stands_still(process: Process) -> None:
    await until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "it stands still")


async def gave_up(process: Process) -> None:
    await until(lambda: "attempt_fenced" in process.output(), "it learns that it has lost the run")


async def goes_on_too_late(stack: Stack, stalled: Process, viewer: Viewer) -> None:
    """It stands still until another one's text is read, and learns that it has lost the run."""
    await stands_still(stalled)
    await asyncio.to_thread(stack.start_worker)
    await viewer.until(lambda viewer: viewer.attempt == 2 and bool(viewer.text))
    stalled.resume()
    await gave_up(stalled)


async def assert_the_other_completed_it(stack: Stack, caller: Caller, viewer: Viewer, text: str) -> None:
    assert viewer.restarts == [LOST]
    assert viewer.text == text
    assert await outcomes(stack, viewer.run_id) == ["lapsed", "completed"]
    await assert_told_the_same_after_the_end(stack, caller, viewer)


async def assert_it_gave_up_once(stack: Stack, process: Process) -> None:
    """It said so, is not dead, and no call of its goes on."""
    await until(lambda: not stack.provider_stats()["open_streams"], "its call is closed")
    assert process.output().count("attempt_fenced") == 1
    assert process.alive


@asynccontextmanager
async def published(stack: Stack, run_id: str) -> AsyncIterator[list[str]]:
    """The ids that readers of the run are told meanwhile."""
    ids: list[str] = []
    with redis.Redis.from_url(stack.redis_url, socket_timeout=DEADLINE) as client, client.pubsub() as channel:
        channel.subscribe(f"runstream:run:{run_id}")
        assert channel.get_message(timeout=DEADLINE)["type"] == "subscribe"
        yield ids
        while message := channel.get_message(timeout=0.1):
            ids.append(message["data"].split(b" ")[0].decode())


async def test_a_worker_that_stood_still_with_a_result_in_its_hands_does_not_write_it(stack: Stack) -> None:
    stalled = await asyncio.to_thread(stack.start_worker, crash_at=f"{Point.SETTLE_BEGUN}:1:stop")
    async with user(stack) as caller:
        run_id = await caller.create("unicode:150:50")
        async with reading(stack, caller, run_id) as viewer:
            await goes_on_too_late(stack, stalled, viewer)
            ((status, attempt),) = await rows(stack, "select status, attempt from runs where id = $1", run_id)
            assert (status, attempt) == ("running", 2), "the other one goes on"
        assert {entry_id.split("-")[0] for entry_id, _ in logged(stack, run_id)} == {"2"}
        await assert_the_other_completed_it(stack, caller, viewer, unicode_text(150))
    await assert_it_gave_up_once(stack, stalled)


async def test_a_worker_that_stood_still_as_it_renewed_its_lease_does_not_trust_the_answer(stack: Stack) -> None:
    stalled = await asyncio.to_thread(stack.start_worker, crash_at=f"{Point.LEASE_RENEWED}:3:stop")
    async with user(stack) as caller:
        run_id = await caller.create("unicode:300:50")
        async with reading(stack, caller, run_id) as viewer:
            await goes_on_too_late(stack, stalled, viewer)
        await assert_the_other_completed_it(stack, caller, viewer, unicode_text(300))
    await assert_it_gave_up_once(stack, stalled)


async def test_a_worker_that_stood_still_until_the_run_was_over_begins_no_log(stack: Stack) -> None:
    stalled = await asyncio.to_thread(stack.start_worker, crash_at=f"{Point.CLAIM_COMMITTED}:1:stop")
    model = own_model()
    async with user(stack) as caller:
        run_id = await caller.create(model)
        await stands_still(stalled)
        await asyncio.to_thread(stack.start_worker)
        assert (await caller.ended(run_id))["output"] == {"text": words(5)}
        flush(stack)
        async with published(stack, run_id) as ids:
            stalled.resume()
            await gave_up(stalled)
        assert ids == []
        assert logged(stack, run_id) == []
        assert await outcomes(stack, run_id) == ["lapsed", "completed"]
    await assert_it_gave_up_once(stack, stalled)


async def test_a_worker_that_stood_still_puts_nothing_back_into_a_redis_that_lost_everything(stack: Stack) -> None:
    """Nor while it cannot learn from Postgres that it has lost the run. Who writes it now stands still meanwhile."""
    metrics_port = free_port()
    with Proxy.to(stack.database_url) as postgres:
        through = postgres.through(stack.database_url)
        stalled = await asyncio.to_thread(
            stack.start_worker, database_url=through, worker_metrics_port=str(metrics_port)
        )
        async with user(stack) as caller:
            run_id = await caller.create("unicode:300:50")
            async with reading(stack, caller, run_id) as viewer:
                await viewer.until(lambda viewer: bool(viewer.text))
                stalled.pause()
                writing = await asyncio.to_thread(stack.start_worker, lease=str(DEADLINE))
                await viewer.until(lambda viewer: viewer.attempt == 2 and bool(viewer.text))
                with stopped(writing.pid):
                    postgres.stall()
                    flush(stack)
                    async with published(stack, run_id) as ids:
                        stalled.resume()
                        await until(lambda: losses(metrics_port), "it notices that its log is gone")
                        postgres.mend()
                        await gave_up(stalled)
                    assert ids == []
                    assert logged(stack, run_id) == []
            await assert_the_other_completed_it(stack, caller, viewer, unicode_text(300))
        await assert_it_gave_up_once(stack, stalled)
        stack.kill(stalled)


def losses(metrics_port: int) -> float:
    """How often the worker found a log of its own gone."""
    text = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
    return float(re.search(r"^runstream_transcripts_put_back_total (\S+)$", text, re.MULTILINE)[1])
