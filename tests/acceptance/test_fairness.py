"""A tenant with thousands of queued runs, and another one that comes with one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest
from redis.asyncio import Redis

from caller import Caller
from reliability import flush, rows, user
from runstream.domain.run import Priority
from runstream.queue.enqueue import JobQueue
from runstream.redis_script import Scripts
from stack import Stack
from viewer import DEADLINE
from waiting import until

MANY = 5000
SLOTS = 4
MODEL = "sim:10:20"
"""Half a second."""
COPIES = """
insert into runs (id, tenant, user_id, feature, prompt_version, input, model, queue, status, max_attempts, enqueued_at)
select 'run_' || lpad(number::text, 26, '0'), tenant, user_id, feature, prompt_version, input, model, queue, status,
       max_attempts, now()
  from runs, generate_series(2, $2) as number
 where id = $1
returning id
"""
BETWEEN = """
select count(*)
  from runs as other, runs as one
 where one.id = $1 and other.tenant = 'acme' and other.started_at between one.created_at and one.started_at
"""


@pytest.fixture(scope="module")
async def crowd(make_shared_stack: Callable[..., Stack]) -> Stack:
    """No worker, and thousands of runs of `acme` that wait for one."""
    stack = make_shared_stack(workers=0, worker_slots=SLOTS, max_queued=2 * MANY, max_queued_per_tenant=MANY)
    async with (
        user(stack) as many,
        Redis.from_url(stack.redis_url) as redis,
        aclosing(Scripts(redis, timeout=DEADLINE)) as scripts,
    ):
        first = await many.create(MODEL)
        jobs = JobQueue(scripts)
        for row in await rows(stack, COPIES, first, MANY):
            await jobs.enqueue(row["id"], 0, "default", tenant="acme", priority=Priority.DEFAULT)
        assert await jobs.depth("default") == MANY
    return stack


async def waited(stack: Stack, run_id: str) -> tuple[int, float]:
    """How many of the other tenant's runs were taken up between its creation and its start, and the seconds."""
    query = "select extract(epoch from started_at - created_at)::float from runs where id = $1"
    return (await rows(stack, BETWEEN, run_id))[0][0], (await rows(stack, query, run_id))[0][0]


async def queued(stack: Stack) -> int:
    return (await rows(stack, "select count(*) from runs where tenant = 'acme' and status = 'queued'"))[0][0]


@pytest.mark.promise("P7")
async def test_one_run_waits_for_a_slot_and_not_for_the_thousands_of_another_tenant(
    crowd: Stack, record_property: Callable[[str, object], None]
) -> None:
    worker = await asyncio.to_thread(crowd.start_worker)
    try:
        async with Caller.of(crowd, "other", "bob") as one:

            async def all_busy() -> bool:
                return await queued(crowd) <= MANY - 2 * SLOTS

            await until(all_busy, "all slots have been taken twice")
            run_id = await one.create(MODEL, priority="low")
            assert (await one.ended(run_id))["status"] == "completed"
        others, seconds = await waited(crowd, run_id)
        left = await queued(crowd)
    finally:
        crowd.kill(worker)
    record_property("wait", f"{seconds:.2f} s, in which {others} runs of the other tenant began; {left} still waited")
    assert others <= SLOTS
    assert left > MANY * 0.95, "they waited all the time"


@pytest.mark.promise("P1", "P7")
async def test_it_is_the_same_when_redis_has_lost_all_jobs(
    crowd: Stack, record_property: Callable[[str, object], None]
) -> None:
    async with Caller.of(crowd, "another", "eve") as one:
        run_id = await one.create(MODEL)
        flush(crowd)
        await rows(crowd, "update runs set enqueued_at = now() - interval '1 minute' where status = 'queued'")
        worker = await asyncio.to_thread(crowd.start_worker)
        try:
            assert (await one.ended(run_id))["status"] == "completed"
        finally:
            crowd.kill(worker)
    others, seconds = await waited(crowd, run_id)
    record_property("wait", f"{seconds:.2f} s from its creation, before the flush; {others} runs of the other tenant")
    assert others <= 2 * SLOTS, "those that are enqueued first take all slots, and then it is its turn"
    assert await queued(crowd) > MANY * 0.95
