"""A process dies at the worst instants there are, each of those that it names, and no run is the worse for it.

Leases are short: how long recovery takes by default is another file's matter. Where a run would wait for the sweep to
miss its job, its row is made older instead: for the database's clock that is the same.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
import redis

from caller import TERMINAL, Caller, own_model, words
from reliability import (
    SHORT_LEASES,
    assert_told_the_same_after_the_end,
    flush,
    jobs,
    logged,
    outcomes,
    reading,
    rows,
    unicode_text,
    until_status,
    user,
)
from runstream.crash_points import Point
from stack import Process, Stack
from viewer import Viewer
from waiting import until

LOST = {"attempt": 2, "reason": "worker_lost"}


@pytest.fixture(scope="module")
def standing(make_shared_stack: Callable[..., Stack]) -> Stack:
    return make_shared_stack(workers=0, **SHORT_LEASES)


@pytest.fixture
def stack(standing: Stack) -> Iterator[Stack]:
    """One API process, to which each test adds what is to die, and what is to go on."""
    yield standing
    for process in [*standing.workers, *standing.apis[1:]]:
        standing.kill(process)


async def worker(stack: Stack, crash_at: Point | None = None, **environment: str) -> Process:
    armed = {"crash_at": crash_at} if crash_at else {}
    return await asyncio.to_thread(stack.start_worker, **armed, **environment)


async def died(stack: Stack, process: Process) -> None:
    """Wait until the process has killed itself."""
    assert await asyncio.to_thread(process.wait) == -signal.SIGKILL
    stack.kill(process)


async def make_older(stack: Stack, run_id: str) -> None:
    """As if the run had been enqueued so long ago that the sweep looks for its job."""
    await rows(stack, "update runs set enqueued_at = enqueued_at - interval '1 minute' where id = $1", run_id)


@asynccontextmanager
async def orphaned(
    stack: Stack, caller: Caller, point: Point, model: str = "sim:5", **environment: str
) -> AsyncIterator[Viewer]:
    """A viewer of a run whose worker has died at `point`; it reads on to the end."""
    doomed = await worker(stack, point, **environment)
    run_id = await caller.create(model)
    async with reading(stack, caller, run_id) as viewer:
        await died(stack, doomed)
        yield viewer


async def assert_ended_once(stack: Stack, caller: Caller, viewer: Viewer, status: str, *ends: str) -> None:
    """The viewer was told what the row holds; each attempt was closed; who comes now is told the same."""
    ((attempt, stored),) = await rows(
        stack, "select attempt, transcript from runs where id = $1 and status = $2", viewer.run_id, status
    )
    events = json.loads(stored)
    text = "".join(data["text"] for type_, data in events if type_ == "run.delta")
    length = len(text) + sum(type_ != "run.delta" for type_, _ in events)
    assert (viewer.cursor, viewer.text, viewer.end) == (f"{attempt}-{length}", text, tuple(events[-1]))
    assert [type_ for type_, _ in events if type_ in TERMINAL] == [f"run.{status}"]
    assert sum(type_ in TERMINAL for _, type_ in logged(stack, viewer.run_id)) <= 1
    assert await outcomes(stack, viewer.run_id) == list(ends)
    await assert_told_the_same_after_the_end(stack, caller, viewer)


def calls(stack: Stack, model: str) -> int:
    return stack.provider_stats()["calls"].get(model, 0)


# Submitting


@pytest.mark.promise("P1", "P4")
@pytest.mark.parametrize("point", [Point.SUBMIT_COMMITTED, Point.SUBMIT_ENQUEUED])
async def test_a_run_whose_api_process_dies_before_it_answers_is_run_and_found_again_by_its_key(
    stack: Stack, point: Point
) -> None:
    doomed = await asyncio.to_thread(stack.start_api, crash_at=point)
    model, key = own_model(), {"Idempotency-Key": point.value}
    async with user(stack) as caller:
        async with caller.at(doomed.url) as unlucky:
            with pytest.raises(httpx.TransportError):
                await unlucky.post(model, headers=key)
        await died(stack, doomed)
        ((run_id,),) = await rows(stack, "select id from runs where idempotency_key = $1", point.value)
        if point is Point.SUBMIT_COMMITTED:
            await make_older(stack, run_id)
        async with reading(stack, caller, run_id) as viewer:
            await worker(stack)
        assert viewer.text == words(5)
        await assert_ended_once(stack, caller, viewer, "completed", "completed")
        again = await caller.post(model, headers=key)
        assert (again.status_code, again.json()["id"]) == (202, run_id)
    assert calls(stack, model) == 1


# Limits


LIMITS = '{"tenant": {"tokens_per_day": 1000000}}'


@asynccontextmanager
async def limited(stack: Stack, **environment: str) -> AsyncIterator[tuple[Caller, Process]]:
    """Who asks an API process that has limits and has counted what there is already."""
    api = await asyncio.to_thread(stack.start_api, limits=LIMITS, **environment)
    async with user(stack) as caller, caller.at(api.url) as elsewhere:
        await used(elsewhere)
        yield elsewhere, api


async def used(caller: Caller) -> tuple[int, int]:
    (told,) = (await caller.http.get("/v1/limits")).raise_for_status().json()["data"]
    return told["used"], told["reserved"]


async def until_what_was_spent_is_counted(stack: Stack, caller: Caller) -> None:
    async def so() -> bool:
        make_reservations_older(stack)
        query = "select coalesce(sum(input_tokens + output_tokens), 0) from ledger where tenant = 'acme'"
        return await used(caller) == ((await rows(stack, query))[0][0], 0)

    await until(so, "what is counted is what was spent")


def make_reservations_older(stack: Stack) -> None:
    """As if all had been made so long ago that the sweep looks for their rows."""
    name = "runstream:limits:acme:open"
    with redis.Redis.from_url(stack.redis_url, socket_timeout=60) as client:
        for run_id, record in client.hgetall(name).items():
            *kept, second = json.loads(record)
            client.hset(name, run_id, json.dumps([*kept, second - 100]))


@pytest.mark.promise("P8")
async def test_what_is_reserved_by_an_api_process_that_dies_before_it_writes_the_row_is_given_back(
    stack: Stack,
) -> None:
    async with limited(stack) as (caller, _):
        async with limited(stack, crash_at=Point.SUBMIT_RESERVED) as (unlucky, doomed):
            with pytest.raises(httpx.TransportError):
                await unlucky.post(own_model())
        await died(stack, doomed)
        assert (await used(caller))[1] > 0
        await worker(stack)
        await until_what_was_spent_is_counted(stack, caller)


@pytest.mark.promise("P8")
async def test_what_a_run_took_is_counted_though_its_worker_dies_once_the_end_is_written(stack: Stack) -> None:
    async with limited(stack) as (caller, _):
        doomed = await worker(stack, Point.SETTLE_WRITTEN)
        before, _ = await used(caller)
        run_id = await caller.create()
        await died(stack, doomed)
        await until_status(stack, run_id, "completed")
        assert await used(caller) > (before, 0)
        await rows(stack, "update runs set finished_at = finished_at - interval '1 minute' where id = $1", run_id)
        await worker(stack)
        await until_what_was_spent_is_counted(stack, caller)
        assert (await used(caller))[0] > before


# One attempt


@pytest.mark.promise("P1")
async def test_a_job_whose_worker_dies_before_it_claims_the_run_is_done_by_another(stack: Stack) -> None:
    async with user(stack) as caller:
        async with orphaned(stack, caller, Point.CLAIM_BEGUN) as viewer:
            await worker(stack)
        assert viewer.text == words(5)
        assert viewer.restarts == []
        await assert_ended_once(stack, caller, viewer, "completed", "completed")


@pytest.mark.promise("P1", "P2", "P5")
@pytest.mark.parametrize(
    ("point", "called"), [(Point.CLAIM_COMMITTED, 1), (Point.FIRST_TOKEN, 2), (Point.SETTLE_BEGUN, 2)]
)
async def test_an_attempt_whose_worker_dies_before_its_end_is_written_begins_again_and_says_so(
    stack: Stack, point: Point, called: int
) -> None:
    model = own_model()
    async with user(stack) as caller:
        async with orphaned(stack, caller, point, model) as viewer:
            await worker(stack)
        assert viewer.restarts == [LOST]
        assert viewer.text == words(5)
        await assert_ended_once(stack, caller, viewer, "completed", "lapsed", "completed")
    assert calls(stack, model) == called


@pytest.mark.promise("P1", "P2")
@pytest.mark.parametrize("point", [Point.SETTLE_WRITTEN, Point.SETTLE_ANNOUNCED])
async def test_an_attempt_whose_worker_dies_after_its_end_was_written_is_over(stack: Stack, point: Point) -> None:
    model = own_model()
    async with user(stack) as caller:
        async with orphaned(stack, caller, point, model) as viewer:
            pass
        assert jobs(stack), "its worker did not come to forget its job"
        assert viewer.restarts == []
        assert viewer.text == words(5)
        await worker(stack)
        await until_no_job(stack)
        await assert_ended_once(stack, caller, viewer, "completed", "completed")
    assert calls(stack, model) == 1


async def until_no_job(stack: Stack) -> None:
    """Until the job that its worker left there was done again by another one."""
    await until(lambda: not jobs(stack), "the job is done")


@pytest.mark.promise("P1", "P5")
async def test_a_run_whose_worker_dies_as_it_gives_it_back_is_taken_up(stack: Stack) -> None:
    doomed = await worker(stack, Point.RETRY_REQUEUED, worker_grace="0")
    async with user(stack) as caller:
        run_id = await caller.create("unicode:200:100")
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: bool(viewer.text))
            doomed.terminate()
            await died(stack, doomed)
            await worker(stack)
        assert viewer.restarts == [{"attempt": 2, "reason": "worker_stopped"}]
        assert viewer.text == unicode_text(200)
        await assert_ended_once(stack, caller, viewer, "completed", "handed_back", "completed")


@pytest.mark.promise("P1", "P5")
async def test_a_run_whose_worker_dies_as_it_renews_its_lease_is_taken_up(stack: Stack) -> None:
    async with user(stack) as caller:
        async with orphaned(stack, caller, Point.LEASE_RENEWED, "unicode:300:100", lease_interval="1.2") as viewer:
            await worker(stack)
        assert viewer.restarts == [LOST]
        assert viewer.text == unicode_text(300)
        await assert_ended_once(stack, caller, viewer, "completed", "lapsed", "completed")


# The sweep


@pytest.mark.promise("P1", "P5")
async def test_a_lost_run_whose_saviour_dies_before_it_has_a_job_is_taken_up_by_the_next(stack: Stack) -> None:
    first = await worker(stack)
    async with user(stack) as caller:
        run_id = await caller.create("unicode:200:100")
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: bool(viewer.text))
            stack.kill(first)
            await died(stack, await worker(stack, Point.SWEEP_REQUEUED))
            await until_status(stack, run_id, "queued")
            await worker(stack)
        assert viewer.restarts == [LOST]
        assert viewer.text == unicode_text(200)
        await assert_ended_once(stack, caller, viewer, "completed", "lapsed", "completed")


@pytest.mark.promise("P1")
async def test_a_run_without_a_job_whose_saviour_dies_is_enqueued_by_the_next(stack: Stack) -> None:
    async with user(stack) as caller:
        run_id = await caller.create()
        flush(stack)
        await make_older(stack, run_id)
        async with reading(stack, caller, run_id) as viewer:
            await died(stack, await worker(stack, Point.SWEEP_MARKED))
            await make_older(stack, run_id)
            await worker(stack)
        assert viewer.text == words(5)
        await assert_ended_once(stack, caller, viewer, "completed", "completed")


@pytest.mark.promise("P1", "P2", "P5")
async def test_the_end_of_a_lost_run_reaches_its_readers_though_the_sweep_dies_before_it_says_so(stack: Stack) -> None:
    first = await worker(stack)
    async with user(stack) as caller:
        run_id = await caller.create("unicode:200:100")
        await rows(stack, "update runs set max_attempts = 1 where id = $1", run_id)
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: bool(viewer.text))
            stack.kill(first)
            await died(stack, await worker(stack, Point.UNWRITTEN_ENDED))
        assert viewer.end
        assert viewer.end[1]["error"]["code"] == "worker_lost"
        assert unicode_text(200).startswith(viewer.text)
        await assert_ended_once(stack, caller, viewer, "failed", "lapsed")


# Cancelling


@pytest.mark.promise("P2", "P6")
async def test_a_queued_run_whose_cancel_dies_before_it_says_so_has_ended_for_its_readers(stack: Stack) -> None:
    doomed = await asyncio.to_thread(stack.start_api, crash_at=Point.UNWRITTEN_ENDED)
    async with user(stack) as caller:
        run_id = await caller.create()
        async with reading(stack, caller, run_id, url=stack.url) as viewer:
            await cancel_in_vain(caller, doomed.url, run_id)
            await died(stack, doomed)
        assert (await caller.cancel(run_id))["status"] == "cancelled"
        await assert_ended_once(stack, caller, viewer, "cancelled")


@pytest.mark.promise("P2", "P6")
async def test_a_running_run_whose_cancel_dies_before_its_worker_was_told_is_stopped(stack: Stack) -> None:
    await worker(stack)
    doomed = await asyncio.to_thread(stack.start_api, crash_at=Point.CANCEL_MARKED)
    async with user(stack) as caller:
        run_id = await caller.create("unicode:2000:50")
        async with reading(stack, caller, run_id, url=stack.url) as viewer:
            await viewer.until(lambda viewer: bool(viewer.text))
            await cancel_in_vain(caller, doomed.url, run_id)
            await died(stack, doomed)
        assert unicode_text(2000).startswith(viewer.text)
        await assert_ended_once(stack, caller, viewer, "cancelled", "cancelled")
    await until(lambda: not stack.provider_stats()["open_streams"], "the call is closed")


async def cancel_in_vain(caller: Caller, url: str, run_id: str) -> None:
    async with caller.at(url) as unlucky:
        with pytest.raises(httpx.TransportError):
            await unlucky.cancel(run_id)


# Trying again


@pytest.mark.promise("P1", "P5")
async def test_a_failed_run_whose_api_process_dies_as_it_is_tried_again_gets_its_other_attempt(stack: Stack) -> None:
    doomed = await asyncio.to_thread(stack.start_api, crash_at=Point.AGAIN_COMMITTED)
    await worker(stack)
    async with user(stack) as caller:
        run_id = await caller.create("status:400")
        assert (await caller.ended(run_id))["status"] == "failed"
        await rows(stack, "update runs set model = 'sim:5' where id = $1", run_id)
        async with caller.at(doomed.url) as unlucky:
            with pytest.raises(httpx.TransportError):
                await unlucky.http.post(f"/v1/runs/{run_id}/retry")
        await died(stack, doomed)
        await make_older(stack, run_id)
        async with reading(stack, caller, run_id) as viewer:
            pass
        assert viewer.restarts == [{"attempt": 2, "reason": "retry"}]
        assert viewer.text == words(5)
        await assert_ended_once(stack, caller, viewer, "completed", "failed", "completed")
