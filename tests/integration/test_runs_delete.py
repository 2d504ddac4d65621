"""A run that is deleted is gone, wherever it was: what it cost stays."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
import redis

from caller import Caller, own_model, text_of, words
from reliability import logged, rows
from runstream.domain.limits import Measure
from runstream.storage.budgets import BudgetStore
from runstream.storage.database import connect
from stack import Stack
from waiting import until

LONG = 60
"""Tokens of an answer that is long enough to be given to others."""


async def delete(caller: Caller, run_id: str) -> int:
    return (await caller.http.delete(f"/v1/runs/{run_id}")).status_code


async def answers_to(caller: Caller, run_id: str) -> set[int]:
    """All that is asked about it, or to be done with it."""
    path = f"/v1/runs/{run_id}"
    asked = [("GET", ""), ("GET", "/events"), ("GET", "/attempts"), ("POST", "/cancel"), ("POST", "/retry")]
    return {(await caller.http.request(method, path + what)).status_code for method, what in asked}


async def held(stack: Stack, run_id: str) -> dict[str, int]:
    """How many rows of each table are of the run."""
    tables = {"runs": "id", "attempts": "run_id", "webhook_deliveries": "run_id", "ledger": "run_id"}
    counts = {
        table: (await rows(stack, f"select count(*) from {table} where {column} = $1", run_id))[0][0]
        for table, column in tables.items()
    }
    return {table: count for table, count in counts.items() if count}


async def test_a_run_that_has_ended_is_gone_but_for_what_it_cost(stack: Stack, caller: Caller) -> None:
    run_id, other = await caller.create("reasoning:3:5"), await caller.create("sim:4")
    for each in (run_id, other):
        await caller.ended(each)
    assert await delete(caller, run_id) == 204
    assert await answers_to(caller, run_id) == {404}
    assert await held(stack, run_id) == {"ledger": 1}
    assert await caller.list() == [other]
    assert [type_ for _, type_ in logged(stack, run_id)] == ["run.restarted", "run.cancelled"]
    spent = (await caller.http.get("/v1/usage")).json()["data"][0]
    assert spent["output_tokens"] == 3 + 5 + 4


async def test_to_delete_a_run_again_changes_nothing(stack: Stack, caller: Caller) -> None:
    run_id = await caller.create()
    await caller.ended(run_id)
    assert [await delete(caller, run_id) for _ in range(2)] == [204, 204]
    assert set(await asyncio.gather(*(delete(caller, run_id) for _ in range(5)))) == {204}


async def test_a_queued_run_is_cancelled_and_gone(stack: Stack, unworked: Caller) -> None:
    run_id = await unworked.create()
    assert await delete(unworked, run_id) == 204
    assert await answers_to(unworked, run_id) == {404}
    assert await held(stack, run_id) == {}


@pytest.mark.promise("P6")
async def test_a_running_run_is_stopped_and_gone_and_its_reader_is_told_of_the_end(
    stack: Stack, caller: Caller
) -> None:
    run_id = await caller.create("unicode:5000:100")
    seen = []
    async for event in caller.follow(run_id):
        seen.append(event)
        if event.type == "run.delta" and sum(each.type == "run.delta" for each in seen) == 1:
            assert await delete(caller, run_id) == 204
    assert text_of(seen)
    assert seen[-1].type == "run.cancelled"
    assert await answers_to(caller, run_id) == {404}
    assert await held(stack, run_id) == {"ledger": 1}
    await until(lambda: not stack.provider_stats()["open_streams"], "its call is closed")


@pytest.mark.promise("P7")
async def test_a_run_is_deleted_by_its_user_or_a_server_of_its_tenant_and_by_nobody_else(
    stack: Stack, caller: Caller
) -> None:
    run_ids = [await caller.create() for _ in range(2)]
    for run_id in run_ids:
        await caller.ended(run_id)
    async with (
        Caller.of(stack, caller.tenant, "bob") as other,
        Caller.of(stack, "another", "ada") as foreign,
        Caller.server(stack, caller.tenant) as server,
    ):
        assert [await delete(who, run_ids[0]) for who in (other, foreign, server)] == [404, 404, 204]
        assert await delete(other, run_ids[0]) == 404, "what was deleted is not another's either"
        assert await delete(caller, run_ids[1]) == 204


async def test_the_answer_of_a_deleted_run_is_given_to_nobody(stack: Stack, caller: Caller) -> None:
    model = own_model(LONG)
    first = await caller.create(model, cache="read")
    await caller.ended(first)
    await until(lambda: first in answers(stack), "its answer is kept")
    await delete(caller, first)
    again = await caller.ended(await caller.create(model, cache="read"))
    assert (again["cached"], again["output"]["text"]) == (False, words(LONG))


def answers(stack: Stack) -> list[str]:
    """The runs that Redis says have an answer for others."""
    with redis.Redis.from_url(stack.redis_url, decode_responses=True) as client:
        return [client.get(name) or "" for name in client.scan_iter("runstream:answer:*", count=1000)]


@pytest.mark.promise("P8")
async def test_a_call_that_others_share_goes_on_for_them_and_is_paid_for_by_the_run_that_was_deleted(
    stack: Stack, caller: Caller
) -> None:
    model = own_model(LONG, 40)
    first = await caller.create(model, cache="read")
    await until(lambda: logged(stack, first), "it has begun")
    second = await caller.create(model, cache="read")
    await until(lambda: len(logged(stack, second)) > 1, "it reads the same call")
    assert await delete(caller, first) == 204
    ended = await caller.ended(second)
    assert (ended["status"], ended["output"]["text"]) == ("completed", words(LONG))
    query = "select run_id, output_tokens, cached from ledger where tenant = $1 order by run_id"

    async def paid() -> bool:
        entries = [tuple(row) for row in await rows(stack, query, caller.tenant)]
        return entries == [(first, LONG, False), (second, 0, True)]

    await until(paid, "what was asked of the provider is in the ledger, once")
    assert stack.provider_stats()["calls"][model] == 1
    assert await held(stack, first) == {"ledger": 1}


async def test_an_idempotency_key_is_free_again_once_its_run_is_deleted(caller: Caller) -> None:
    key = {"Idempotency-Key": "order-1"}
    first = (await caller.post(headers=key)).json()["id"]
    await caller.ended(first)
    await delete(caller, first)
    again: httpx.Response = await caller.post(headers=key)
    assert (again.status_code, again.json()["id"] == first) == (202, False)


@pytest.mark.promise("P8")
async def test_a_run_that_was_deleted_has_been_asked_for(stack: Stack, caller: Caller) -> None:
    engine = connect(stack.database_url, pool_size=1, timeout=60)
    try:
        run_id = await caller.create()
        await caller.ended(run_id)
        ((made,),) = await rows(stack, "select created_at from runs where id = $1", run_id)
        _, before = await BudgetStore(engine).read(caller.tenant, made, bounded=True)
        await delete(caller, run_id)
        _, after = await BudgetStore(engine).read(caller.tenant, made, bounded=True)
        assert any(measure is Measure.REQUESTS for *_, measure in before.spent)
        assert after.spent == before.spent
    finally:
        await engine.dispose()


async def test_a_run_that_is_not_there_is_not_deleted(caller: Caller) -> None:
    missing: list[Any] = ["run_01h00000000000000000000000", "nothing"]
    assert [await delete(caller, run_id) for run_id in missing] == [404, 404]
