"""What calls cost: each is in the ledger once, whatever became of it, and what is told adds up to the ledger."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from itertools import combinations
from typing import Any
from uuid import uuid4

import pytest

from caller import Caller, words
from reliability import reading, rows, until_status
from stack import MODELS, Stack
from waiting import until

PRICES = {"local/*": {"input": 1, "output": 10, "cached": 0.5}}
"""US dollars for a million tokens."""
BACKWARDS = {"from": "2026-02-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}
FALLBACK = {
    "fallback": ["local/status:503", "local/sim:7"],
    "fallback-from-noise": ["local/malformed:0", "local/sim:7"],
}
DIMENSIONS = ("user", "feature", "model", "provider", "provider_model", "day")


@pytest.fixture(scope="module")
def priced(make_shared_stack: Callable[..., Stack]) -> Stack:
    return make_shared_stack(prices=json.dumps(PRICES), models=json.dumps(MODELS | FALLBACK))


@pytest.fixture
async def caller(priced: Stack) -> AsyncIterator[Caller]:
    async with Caller.of(priced, f"tenant-{uuid4().hex}", "ada") as caller:
        yield caller


@pytest.fixture
async def server(priced: Stack, caller: Caller) -> AsyncIterator[Caller]:
    """The backend of the caller's tenant, which sees what all of its users spent."""
    async with Caller.server(priced, caller.tenant) as server:
        yield server


async def ledger(stack: Stack, caller: Caller) -> list[dict[str, Any]]:
    query = "select * from ledger where tenant = $1 order by run_id, attempt, call"
    return [dict(row) for row in await rows(stack, query, caller.tenant)]


def cost(input_tokens: int, output_tokens: int) -> Decimal:
    return Decimal(input_tokens + 10 * output_tokens) / 1_000_000


async def usage(caller: Caller, **asked: str) -> list[dict[str, Any]]:
    return (await caller.http.get("/v1/usage", params=asked)).raise_for_status().json()["data"]


async def test_a_call_is_in_the_ledger_with_what_the_provider_counted_and_what_that_costs(priced, caller):
    run = await caller.ended(await caller.create("sim:5", prompt="one two three"))
    (entry,) = await ledger(priced, caller)
    made_at = entry.pop("made_at")
    assert datetime.now(UTC) - made_at < timedelta(minutes=1)
    assert entry == {
        "run_id": run["id"],
        "attempt": 1,
        "call": 1,
        "tenant": caller.tenant,
        "user_id": "ada",
        "feature": "chat",
        "model": "sim:5",
        "provider": "local",
        "provider_model": "sim:5",
        "input_tokens": 3,
        "output_tokens": 5,
        "cached_tokens": 0,
        "estimated": False,
        "cost": cost(3, 5),
        "price_version": "configured",
        "cached": False,
        "saved_cost": None,
    }
    assert run["cost"] == "0.000053"
    (attempt,) = (await caller.http.get(f"/v1/runs/{run['id']}/attempts")).json()["data"]
    assert attempt["cost"] == "0.000053"
    told = [sent async for sent in caller.follow(run["id"])]
    assert told[-1].data["cost"] == "0.000053"


async def test_a_target_that_was_fallen_back_from_is_in_the_ledger_as_a_call_that_bought_nothing(priced, caller):
    run = await caller.ended(await caller.create("fallback"))
    refused, answered = await ledger(priced, caller)
    assert (refused["call"], refused["provider_model"], refused["output_tokens"]) == (1, "status:503", 0)
    assert (refused["cost"], refused["price_version"]) == (None, None)
    assert (answered["call"], answered["provider_model"], answered["output_tokens"]) == (2, "sim:7", 7)
    assert Decimal(run["cost"]) == answered["cost"]


async def test_a_target_that_failed_at_work_on_the_prompt_is_paid_for_reading_it(priced, caller):
    run = await caller.ended(await caller.create("fallback-from-noise", prompt="one two three"))
    broken, answered = await ledger(priced, caller)
    assert (broken["provider_model"], broken["estimated"], broken["output_tokens"]) == ("malformed:0", True, 0)
    assert broken["input_tokens"] == -(-len("one two three" + "user") // 4)
    assert (answered["provider_model"], answered["estimated"]) == ("sim:7", False)
    assert Decimal(run["cost"]) == broken["cost"] + answered["cost"]


async def test_a_run_that_is_cancelled_before_the_first_token_is_paid_for_its_prompt(priced, caller):
    run_id = await caller.create("hang:0", prompt="one two three")
    await until(lambda: any(call["model"] == "hang:0" for call in priced.provider_calls()))
    await caller.cancel(run_id)
    await caller.ended(run_id)
    (entry,) = await ledger(priced, caller)
    tokens = -(-len("one two three" + "user") // 4), 0
    assert (entry["input_tokens"], entry["output_tokens"], entry["estimated"]) == (*tokens, True)


async def test_what_all_attempts_cost_is_what_the_run_costs(priced, caller):
    run = await caller.ended(await caller.create("cut:20", prompt="cut me"))
    entries = await ledger(priced, caller)
    assert [entry["attempt"] for entry in entries] == [1, 2, 3]
    assert all(entry["estimated"] for entry in entries)
    tokens = -(-len("cut me" + "user") // 4), -(-len(words(20)) // 4)
    assert all((entry["input_tokens"], entry["output_tokens"]) == tokens for entry in entries)
    assert Decimal(run["cost"]) == 3 * cost(*tokens)


async def test_a_run_that_is_tried_again_keeps_what_it_has_cost(priced, caller):
    run = await caller.ended(await caller.create("cut:20"))
    (await caller.http.post(f"/v1/runs/{run['id']}/retry")).raise_for_status()
    again = await caller.ended(run["id"])
    assert Decimal(again["cost"]) == Decimal(run["cost"]) * 4 / 3
    assert len(await ledger(priced, caller)) == 4


async def test_a_cancelled_run_is_paid_for(priced, caller):
    run_id = await caller.create("hang:40")
    async with reading(priced, caller, run_id) as viewer:
        await viewer.until(lambda viewer: viewer.text == words(40))
        await caller.cancel(run_id)
    (entry,) = await ledger(priced, caller)
    assert (entry["output_tokens"], entry["estimated"]) == (-(-len(words(40)) // 4), True)
    assert Decimal((await caller.ended(run_id))["cost"]) == entry["cost"] > 0


async def test_a_call_whose_worker_was_lost_is_paid_for_once_by_what_its_log_holds(make_stack):
    stack = make_stack(prices=json.dumps(PRICES))
    async with Caller.of(stack, "acme", "ada") as caller:
        silent = await caller.create("hang:0", prompt="one two three")
        run_id = await caller.create("hang:40")
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: viewer.text == words(40))
            stack.kill(stack.workers[0])
            await asyncio.to_thread(stack.start_worker)
            await viewer.until(lambda viewer: viewer.attempt == 2 and viewer.text == words(40))
            await caller.cancel(run_id)
            await until(lambda: [call["model"] for call in stack.provider_calls()].count("hang:0") == 2)
            await caller.cancel(silent)
            await caller.ended(silent)
        entries = await ledger(stack, caller)
    asked = [entry for entry in entries if entry["run_id"] == silent]
    assert [(entry["attempt"], entry["input_tokens"], entry["output_tokens"]) for entry in asked] == [
        (attempt, -(-len("one two three" + "user") // 4), 0) for attempt in (1, 2)
    ]
    lost, stopped = (entry for entry in entries if entry["run_id"] == run_id)
    assert (lost["attempt"], stopped["attempt"]) == (1, 2)
    for entry in (lost, stopped):
        assert (entry["provider_model"], entry["output_tokens"]) == ("hang:40", -(-len(words(40)) // 4))
        assert entry["estimated"]


async def test_the_last_attempt_whose_worker_was_lost_is_paid_for_by_the_sweep_that_ends_the_run(make_stack):
    stack = make_stack(prices=json.dumps(PRICES), max_attempts=1)
    async with Caller.of(stack, "acme", "ada") as caller:
        run_id = await caller.create("hang:40")
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: viewer.text == words(40))
            stack.kill(stack.workers[0])
            await asyncio.to_thread(stack.start_worker)
        await until_status(stack, run_id, "failed")
        (entry,) = await ledger(stack, caller)
        assert Decimal((await caller.ended(run_id))["cost"]) == entry["cost"] > 0


async def test_every_way_to_group_spend_adds_up_to_the_ledger(priced, caller, server):
    async with Caller.of(priced, caller.tenant, "bob") as bob, Caller.of(priced, f"{caller.tenant}-2", "eve") as eve:
        models = ["sim:3", "sim:4", "fallback", "cut:6", "status:400"]
        ids = [(who, await who.create(model)) for who in (caller, bob, eve) for model in models]
        for who, run_id in ids:
            await who.ended(run_id)
    entries = await ledger(priced, caller)
    assert len({entry["run_id"] for entry in entries}) == 10
    whole = {
        "calls": len(entries),
        "estimated_calls": sum(entry["estimated"] for entry in entries),
        "unpriced_calls": 0,
        **{
            f"{kind}_tokens": sum(entry[f"{kind}_tokens"] for entry in entries)
            for kind in ("input", "output", "cached")
        },
    }
    spent = sum((entry["cost"] for entry in entries if entry["cost"]), Decimal(0))
    for size in range(len(DIMENSIONS) + 1):
        for group in combinations(DIMENSIONS, size):
            told = await usage(server, group_by=",".join(group))
            assert {name: sum(each[name] for each in told) for name in whole} == whole
            assert sum(Decimal(each["cost"]) for each in told) == spent
            keys = [tuple(each[name] for name in group) for each in told]
            assert len(set(keys)) == len(keys)
            assert keys == sorted(keys)
    by_user = {each["user"]: each["calls"] for each in await usage(server, group_by="user")}
    assert by_user == {"ada": len(entries) // 2, "bob": len(entries) // 2}
    assert [each["tenant"] for each in await usage(server, group_by="tenant")] == [caller.tenant]
    assert [(each["user"], each["calls"]) for each in await usage(caller, group_by="user")] == [("ada", by_user["ada"])]


async def test_calls_of_any_size_add_up_though_they_have_no_price(priced, caller):
    most = 2**31 - 1
    entry = (
        "insert into ledger (run_id, attempt, call, tenant, user_id, feature, model, provider, provider_model,"
        " input_tokens, output_tokens, cached_tokens, estimated)"
        " select right($1, 32), 1, call, $1, 'ada', 'chat', 'm', 'local', 'm', $2, $2, 0, false"
        " from generate_series(1, 3) call"
    )
    await rows(priced, entry, caller.tenant, most)
    (whole,) = await usage(caller)
    assert (whole["input_tokens"], whole["output_tokens"], whole["unpriced_calls"]) == (3 * most, 3 * most, 3)


async def test_spend_is_told_of_the_time_asked_for_from_its_beginning_and_before_its_end(priced, caller):
    await caller.ended(await caller.create("sim:5"))
    ((made_at,),) = await rows(priced, "select made_at from ledger where tenant = $1", caller.tenant)
    just_after = made_at + timedelta(microseconds=1)

    async def calls(since: datetime, until: datetime) -> int:
        (whole,) = await usage(caller, **{"from": since.isoformat(), "to": until.isoformat()})
        return whole["calls"]

    assert await calls(made_at, just_after) == 1
    assert await calls(made_at - timedelta(days=1), made_at) == 0
    assert await calls(just_after, just_after + timedelta(days=1)) == 0


async def test_spend_comes_as_csv_to_who_asks_for_it_with_names_that_no_spreadsheet_runs(priced, caller, server):
    async with Caller.of(priced, caller.tenant, "=cmd()") as sly:
        for who in (caller, sly):
            await who.ended(await who.create("sim:5", prompt="one two three"))
    response = await server.http.get("/v1/usage", params={"group_by": "user,model"}, headers={"Accept": "text/csv"})
    assert response.headers["content-type"].startswith("text/csv")
    told = list(csv.DictReader(StringIO(response.text)))
    assert [(each["user"], each["model"], each["calls"], each["cost"]) for each in told] == [
        ("'=cmd()", "sim:5", "1", "0.000053"),
        ("ada", "sim:5", "1", "0.000053"),
    ]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"group_by": "user,colour"}, "group_by"),
        ({"from": "yesterday"}, "from"),
        ({"to": "1"}, "to"),
        (BACKWARDS, "from"),
    ],
)
async def test_what_cannot_be_asked_of_spend_is_refused_by_name(caller, asked, param):
    response = await caller.http.get("/v1/usage", params=asked)
    assert response.status_code == 422
    assert response.json()["error"]["param"] == param


async def test_what_the_cache_saved_is_in_the_ledger_and_adds_up(priced, caller):
    first, again = [await caller.ended(await caller.create("sim:60", cache="read")) for _ in range(2)]
    made, saved = await ledger(priced, caller)
    assert (made["run_id"], made["cached"], made["saved_cost"]) == (first["id"], False, None)
    assert (saved["run_id"], saved["cached"], saved["saved_cost"]) == (again["id"], True, made["cost"])
    assert (saved["provider_model"], saved["cost"]) == ("sim:60", 0)
    assert (saved["input_tokens"], saved["output_tokens"]) == (0, 0)
    (whole,) = await usage(caller)
    assert (whole["calls"], whole["cached_calls"], whole["refused_calls"], whole["unpriced_calls"]) == (2, 1, 0, 0)
    assert Decimal(whole["cost"]) == Decimal(whole["saved_cost"]) == made["cost"]
