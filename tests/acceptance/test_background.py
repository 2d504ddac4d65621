"""An answer that its provider makes in the background outlives the worker that reads it: asked once, billed once."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from caller import Caller, own_model, words
from proxy import Proxy
from reliability import (
    SHORT_LEASES,
    assert_told_the_same_after_the_end,
    logged,
    outcomes,
    reading,
    rows,
    until_status,
    user,
    worker_of,
)
from runstream.crash_points import Point
from stack import PROVIDER, PROVIDER_KEY, Process, Stack
from viewer import DEADLINE, Viewer
from waiting import until

WORDS = 150
LONG = 400
"""At fifty a second."""
LOST = {"attempt": 2, "reason": "worker_lost"}
RESUMED = {**LOST, "resumed": True}
FRAMES = 5
"""Of what comes again, where each word had its own."""


@pytest.fixture(scope="module")
def standing(make_shared_stack: Callable[..., Stack]) -> Stack:
    stack = make_shared_stack(
        workers=0,
        **SHORT_LEASES,
        prices=json.dumps({f"{PROVIDER}/*": {"input": 1, "output": 1}}),
    )
    stack.environment["RUNSTREAM_PROVIDERS"] = in_background(stack.provider_url)
    return stack


@pytest.fixture
def stack(standing: Stack) -> Iterator[Stack]:
    """One API process, which needs no provider; each test adds the workers."""
    yield standing
    for process in list(standing.workers):
        standing.kill(process)


def in_background(url: str) -> str:
    account = {"kind": "openai-responses", "base_url": url, "api_keys": [PROVIDER_KEY], "background": True}
    return json.dumps({PROVIDER: account})


async def workers(stack: Stack, **environment: str) -> None:
    """One that will have the run, and one that is ready to go on: starting takes longer than many an answer."""
    await asyncio.gather(*(worker(stack, **environment) for _ in range(2)))


async def worker(stack: Stack, **environment: str) -> Process:
    return await asyncio.to_thread(stack.start_worker, **environment)


def endings(stack: Stack, model: str) -> list[str]:
    return [call["ending"] for call in stack.provider_calls(model)]


async def left(stack: Stack, run_id: str) -> list[str]:
    """What attempts still have to be read on."""
    query = "select response_id from attempts where run_id = $1 and response_id is not null"
    return [row["response_id"] for row in await rows(stack, query, run_id)]


async def ledger(stack: Stack, run_id: str) -> list[tuple[int, int, bool]]:
    """Of each line its attempt, its output tokens and whether they are estimated; what they cost, the run did."""
    lines = await rows(stack, "select * from ledger where run_id = $1 order by attempt, call", run_id)
    ((cost,),) = await rows(stack, "select cost from runs where id = $1", run_id)
    assert cost == sum(line["cost"] for line in lines)
    assert cost > 0
    return [(line["attempt"], line["output_tokens"], line["estimated"]) for line in lines]


@asynccontextmanager
async def under_way(stack: Stack, caller: Caller, model: str) -> AsyncIterator[Viewer]:
    """A viewer of a run of which twenty words have come; it reads on to the end."""
    run_id = await caller.create(model)
    async with reading(stack, caller, run_id) as viewer:
        await viewer.until(lambda viewer: len(viewer.text) >= len(words(20)))
        yield viewer


async def assert_read_on(stack: Stack, caller: Caller, viewer: Viewer, model: str, count: int, *gone: str) -> None:
    """The provider was asked once, the text is exact, and the last attempt has the whole bill."""
    assert viewer.text == words(count)
    assert viewer.end
    usage = viewer.end[1]["usage"]
    assert (viewer.end[0], usage["output_tokens"], usage["estimated"]) == ("run.completed", count, False)
    assert endings(stack, model) == ["finish"]
    assert await outcomes(stack, viewer.run_id) == [*gone, "completed"]
    assert await ledger(stack, viewer.run_id) == [(len(gone) + 1, count, False)]
    assert await left(stack, viewer.run_id) == []
    await assert_told_the_same_after_the_end(stack, caller, viewer)


@pytest.mark.promise("P1", "P2", "P5")
async def test_an_answer_in_the_background_is_read_on_after_its_worker_was_killed(stack: Stack) -> None:
    model = own_model(LONG, 50)
    await workers(stack)
    async with user(stack) as caller:
        async with under_way(stack, caller, model) as viewer:
            said = viewer.position
            stack.kill(await worker_of(stack, viewer.run_id))
        assert viewer.restarts == [RESUMED]
        await assert_read_on(stack, caller, viewer, model, LONG, "lapsed")
        positions = [int(entry_id.split("-")[1]) for entry_id, _ in logged(stack, viewer.run_id)]
        assert len([position for position in positions if position <= said]) < FRAMES


@pytest.mark.promise("P1", "P2", "P5")
async def test_an_answer_in_the_background_is_read_on_after_two_workers_were_killed_in_turn(stack: Stack) -> None:
    """The second dies as soon as the run is its own: what it was to read on is with its attempt from then on."""
    first, model = await worker(stack), own_model(LONG, 50)
    async with user(stack) as caller:
        async with under_way(stack, caller, model) as viewer:
            stack.kill(first)
            second = await worker(stack, crash_at=Point.CLAIM_COMMITTED)
            assert await asyncio.to_thread(second.wait) == -signal.SIGKILL
            stack.kill(second)
            await worker(stack)
        assert viewer.restarts == [{"attempt": 3, "reason": "worker_lost", "resumed": True}]
        await assert_read_on(stack, caller, viewer, model, LONG, "lapsed", "lapsed")


@pytest.mark.promise("P1", "P2", "P5")
async def test_an_answer_in_the_background_is_read_on_after_its_worker_handed_it_back(stack: Stack) -> None:
    model = own_model(LONG, 50)
    await workers(stack, worker_grace="0")
    async with user(stack) as caller:
        async with under_way(stack, caller, model) as viewer:
            assert await asyncio.to_thread(stack.stop, await worker_of(stack, viewer.run_id)) == 0
        assert viewer.restarts == [{"attempt": 2, "reason": "worker_stopped", "resumed": True}]
        await assert_read_on(stack, caller, viewer, model, LONG, "handed_back")


@pytest.mark.promise("P3")
async def test_a_worker_that_stood_still_does_not_stop_the_answer_that_another_one_reads(stack: Stack) -> None:
    """Its line to the provider was silent for too long when it wakes up: an answer of its own would be stopped."""
    model = own_model(LONG, 50)
    await workers(stack, idle_timeout="1")
    async with user(stack) as caller:
        async with under_way(stack, caller, model) as viewer:
            stalled = await worker_of(stack, viewer.run_id)
            stalled.pause()
            await viewer.until(lambda viewer: viewer.attempt == 2 and bool(viewer.text))
            stalled.resume()
            await until(lambda: "attempt_fenced" in stalled.output(), "it learns that it has lost the run")
            assert endings(stack, model) == ["open"], "it would be too late to stop it"
        assert viewer.restarts == [RESUMED]
        await assert_read_on(stack, caller, viewer, model, LONG, "lapsed")


@pytest.mark.promise("P6")
async def test_a_cancel_stops_an_answer_in_the_background_at_its_provider(stack: Stack) -> None:
    model = own_model(LONG, 50)
    process = await worker(stack)
    async with user(stack) as caller:
        async with under_way(stack, caller, model) as viewer:
            await caller.cancel(viewer.run_id)
        await until(lambda: endings(stack, model) == ["cancelled"], "it is stopped")
        assert "answer_unread" not in process.output(), "it took a sweep"
        ((attempt, tokens, estimated),) = await ledger(stack, viewer.run_id)
        assert (attempt, estimated) == (1, True)
        assert tokens == -(-len(viewer.text) // 4)


@pytest.mark.promise("P6")
async def test_a_cancel_between_two_attempts_is_charged_once_and_the_next_worker_stops_the_answer(stack: Stack) -> None:
    first, model = await worker(stack, worker_grace="0"), own_model(5000, 50)
    async with user(stack) as caller:
        async with under_way(stack, caller, model) as viewer:
            assert await asyncio.to_thread(stack.stop, first) == 0
            await until_status(stack, viewer.run_id, "queued")
            assert (await caller.cancel(viewer.run_id))["status"] == "cancelled"
        ((attempt, tokens, estimated),) = lines = await ledger(stack, viewer.run_id)
        assert (attempt, tokens, estimated) == (1, -(-len(viewer.text) // 4), True)
        assert endings(stack, model) == ["open"]
        await worker(stack)
        await until(lambda: endings(stack, model) == ["cancelled"], "it is stopped")
        assert await left(stack, viewer.run_id) == []
        assert await ledger(stack, viewer.run_id) == lines


@pytest.mark.promise("P1", "P5")
async def test_what_the_last_attempt_left_is_stopped_and_not_read_by_one_that_a_person_asks_for(stack: Stack) -> None:
    model = own_model(LONG, 50)
    await workers(stack)
    async with user(stack) as caller:
        async with under_way(stack, caller, model) as viewer:
            await rows(stack, "update runs set max_attempts = 1 where id = $1", viewer.run_id)
            stack.kill(await worker_of(stack, viewer.run_id))
        assert viewer.end
        assert viewer.end[1]["error"]["code"] == "worker_lost"
        await until(lambda: endings(stack, model) == ["cancelled"], "it is stopped")
        assert [line[::2] for line in await ledger(stack, viewer.run_id)] == [(1, True)]
        await caller.http.post(f"/v1/runs/{viewer.run_id}/retry")
        async with reading(stack, caller, viewer.run_id) as again:
            pass
        assert again.restarts == [{"attempt": 3, "reason": "retry"}]
        assert again.text == words(LONG)
        assert [line[::2] for line in await ledger(stack, viewer.run_id)] == [(1, True), (3, False)]
    assert endings(stack, model) == ["cancelled", "finish"]


@pytest.mark.promise("P1", "P5")
async def test_an_answer_that_its_provider_has_forgotten_is_asked_for_anew_and_readers_are_told(stack: Stack) -> None:
    first, model = await worker(stack), own_model(WORDS, 50)
    async with user(stack) as caller:
        async with under_way(stack, caller, model) as viewer:
            stack.kill(first)
            async with httpx.AsyncClient(timeout=DEADLINE) as client:
                (await client.post(f"{stack.provider_origin}/reset")).raise_for_status()
            await worker(stack)
        assert viewer.restarts == [RESUMED, {"attempt": 2, "reason": "provider_answer_lost"}]
        assert viewer.text == words(WORDS)
        assert await outcomes(stack, viewer.run_id) == ["lapsed", "completed"]
        forgotten, anew = await ledger(stack, viewer.run_id)
        assert forgotten[::2] == (2, True)
        assert anew == (2, WORDS, False)
        await assert_told_the_same_after_the_end(stack, caller, viewer)
    assert endings(stack, model) == ["finish"]


@pytest.mark.promise("P1", "P5")
async def test_an_answer_whose_worker_died_before_it_wrote_down_its_id_is_asked_for_anew(stack: Stack) -> None:
    doomed, model = await worker(stack, crash_at=Point.ANSWER_KNOWN), own_model(WORDS, 50)
    async with user(stack) as caller:
        run_id = await caller.create(model)
        async with reading(stack, caller, run_id) as viewer:
            assert await asyncio.to_thread(doomed.wait) == -signal.SIGKILL
            stack.kill(doomed)
            await worker(stack)
        assert viewer.restarts == [LOST]
        assert viewer.text == words(WORDS)
        assert await ledger(stack, run_id) == [(1, 0, True), (2, WORDS, False)]
    assert len(stack.provider_calls(model)) == 2


@pytest.mark.promise("P1")
async def test_text_comes_though_postgres_is_away_when_the_id_is_known_and_it_is_written_afterwards(
    stack: Stack,
) -> None:
    model = own_model(LONG, 50)
    with Proxy.to(stack.database_url) as postgres:
        through = postgres.through(stack.database_url)
        first = await worker(stack, database_url=through, database_timeout="1", crash_at=f"{Point.ANSWER_KNOWN}:1:stop")
        async with user(stack) as caller:
            run_id = await caller.create(model)
            async with reading(stack, caller, run_id) as viewer:
                await until(lambda: stack.provider_calls(model), "the provider is asked")
                await asyncio.sleep(0.1)
                postgres.cut()
                first.resume()
                await viewer.until(lambda viewer: len(viewer.text) >= len(words(20)))
                assert await left(stack, run_id) == []
                postgres.mend()

                async def written() -> bool:
                    return bool(await left(stack, run_id))

                await until(written, "it is written")
                stack.kill(first)
                await worker(stack)
            assert viewer.restarts == [RESUMED]
            await assert_read_on(stack, caller, viewer, model, LONG, "lapsed")


@pytest.mark.promise("P1", "P2", "P5")
async def test_an_answer_that_is_out_of_reach_for_long_is_read_on_by_the_next_attempt(stack: Stack) -> None:
    model = own_model(LONG, 25)
    with Proxy.to(stack.provider_url) as line:
        await worker(stack, providers=in_background(line.through(stack.provider_url)))
        async with user(stack) as caller:
            async with under_way(stack, caller, model) as viewer:
                line.cut()
                await until_status(stack, viewer.run_id, "queued")
                line.mend()
            assert viewer.restarts == [{"attempt": 2, "reason": "provider_unavailable", "resumed": True}]
            await assert_read_on(stack, caller, viewer, model, LONG, "retried")
