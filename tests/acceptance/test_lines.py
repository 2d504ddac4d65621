"""Calls of two worker processes wait for their turn at a provider's keys, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import redis

from caller import Caller, own_model
from pace import kept_the_pace
from reliability import MakeStack, flush
from runstream.providers.simulated.calls import named
from stack import MODELS, Stack
from waiting import until

A_MINUTE = 60
"""What a key of `local` may be asked for."""


@pytest.fixture(scope="module")
def lined(make_shared_stack: MakeStack) -> Stack:
    stack = make_shared_stack(apis=0, workers=0)
    keys = stack.directory / "keys"
    keys.write_text("k1\nk2\n")
    at = {"kind": "openai", "base_url": stack.provider_url}
    providers = {
        "local": {**at, "api_keys_file": str(keys), "requests_per_minute": A_MINUTE},
        "slow": {**at, "api_keys": ["s1"], "requests_per_minute": 12},
        "tight": {**at, "api_keys": ["t1"], "requests_per_minute": 5},
    }
    models = {**MODELS, "slow": ["slow/sim:2"], "tight": ["tight/sim:6"]}
    stack.environment |= {
        "RUNSTREAM_PROVIDERS": json.dumps(providers),
        "RUNSTREAM_MODELS": json.dumps(models),
        "RUNSTREAM_PROVIDER_WAIT": "10",
    }
    stack.start_api()
    for _ in range(2):
        stack.start_worker()
    return stack


@asynccontextmanager
async def tenants(stack: Stack) -> AsyncIterator[tuple[Caller, Caller]]:
    """Two of them, at keys of which nothing is used."""
    flush(stack)
    async with Caller.of(stack, "many", "ada") as many, Caller.of(stack, "other", "bob") as other:
        yield many, other


def waiting(stack: Stack, provider: str = "local") -> int:
    with redis.Redis.from_url(stack.redis_url) as client:
        return client.hlen(f"runstream:line:{provider}:calls")


async def create(caller: Caller, number: int, model: str) -> list[str]:
    return await asyncio.gather(*(caller.create(model) for _ in range(number)))


async def complete(caller: Caller, run_ids: list[str]) -> None:
    ended = await asyncio.gather(*(caller.ended(run_id) for run_id in run_ids))
    assert Counter(run["status"] for run in ended) == {"completed": len(run_ids)}


def calls(stack: Stack, *models: str) -> list[dict]:
    return [call for call in stack.provider_calls() if call["model"] in models]


@pytest.mark.promise("P7")
async def test_runs_of_two_workers_wait_for_a_turn_at_the_keys_and_a_strangers_run_is_not_behind_them(
    lined: Stack,
) -> None:
    model, others = own_model(), own_model()
    async with tenants(lined) as (many, other):
        runs = await create(many, 30, model)
        await until(lambda: waiting(lined) >= 8)
        await complete(other, [await other.create(others)])
        await complete(many, runs)
    made = calls(lined, model, others)
    assert len(made) == 31
    assert [call["model"] for call in made].index(others) < 30
    for key in ("k1", "k2"):
        assert kept_the_pace([call["began"] for call in made if call["key"] == named(key)], A_MINUTE)


async def test_redis_is_emptied_while_runs_wait_for_a_key(lined: Stack) -> None:
    async with tenants(lined) as (many, _):
        runs = await create(many, 24, "sim:5")
        await until(lambda: waiting(lined) >= 4)
        flush(lined)
        await complete(many, runs)


@pytest.mark.promise("P6")
async def test_a_run_that_is_cancelled_while_it_waits_for_a_key_ends_at_once_and_is_never_asked_for(
    lined: Stack,
) -> None:
    async with tenants(lined) as (many, _):
        await complete(many, [await many.create("slow")])
        run = await many.create("slow")
        await until(lambda: waiting(lined, "slow") == 1)
        await many.cancel(run)
        ended = await many.ended(run)
        assert ended["status"] == "cancelled"
        await until(lambda: waiting(lined, "slow") == 0)
    assert len(calls(lined, "sim:2")) == 1


async def test_a_run_that_no_key_has_room_for_is_tried_again_and_says_so(lined: Stack) -> None:
    async with tenants(lined) as (many, _):
        await complete(many, [await many.create("tight")])
        run = await many.create("tight")
        reasons = [event.data["reason"] async for event in many.follow(run) if event.type == "run.restarted"]
        assert reasons == ["provider_busy"]
        await complete(many, [run])
        attempts = (await many.http.get(f"/v1/runs/{run}/attempts")).json()["data"]
    assert [attempt["error"] and attempt["error"]["code"] for attempt in attempts] == ["provider_busy", None]
    assert len(calls(lined, "sim:6")) == 2


async def test_keys_are_added_and_retired_while_runs_go_on(lined: Stack) -> None:
    long, before, after = "sim:60:20", own_model(), own_model()
    async with tenants(lined) as (many, _):
        running = await create(many, 4, long)
        await complete(many, await create(many, 8, before))
        (lined.directory / "keys").write_text("# the second stays\nk2\nk3\n")
        changed = _says("keys_changed", lined)
        while not changed():
            await complete(many, await create(many, 2, "sim:1"))
        await complete(many, await create(many, 8, after))
        await complete(many, running)
    assert {call["key"] for call in calls(lined, before, long)} == {named("k1"), named("k2")}
    assert named("k3") in {call["key"] for call in calls(lined, after)} <= {named("k2"), named("k3")}
    assert {call["ending"] for call in calls(lined, long)} == {"finish"}
    assert len(calls(lined, long)) == 4


@pytest.mark.promise("P1")
async def test_a_worker_that_is_killed_while_its_calls_wait_holds_up_nobody(lined: Stack) -> None:
    async with tenants(lined) as (many, other):
        runs = await create(many, 28, "sim:5")
        await until(lambda: waiting(lined) >= 8)
        lined.kill(lined.workers[0])
        await complete(other, [await other.create("sim:5")])
        await complete(many, runs)
    assert waiting(lined) == 0


def _says(word: str, stack: Stack) -> Callable[[], bool]:
    return lambda: all(word in worker.output() for worker in stack.workers)
