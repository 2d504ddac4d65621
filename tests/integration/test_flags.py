"""Flags, in effect in every process: API processes refuse, and a worker begins nothing that is off for all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from uuid import uuid4

import httpx
import pytest

from caller import DEADLINE, Caller
from runstream.domain.flags import Flag, Guarded
from runstream.domain.principal import Kind
from stack import Stack
from waiting import until


@pytest.fixture(scope="module")
def stack(make_shared_stack: Callable[..., Stack]) -> Stack:
    return make_shared_stack(apis=2, workers=1, worker_slots="1", heartbeat="0.5")


@pytest.fixture
async def operator(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    bearing = {"Authorization": f"Bearer {stack.create_key(None, None, Kind.OPERATOR)}"}
    async with httpx.AsyncClient(base_url=stack.url, headers=bearing, timeout=DEADLINE) as client:
        yield client


@pytest.fixture
async def callers(stack: Stack) -> AsyncIterator[list[Caller]]:
    """The same user at each process."""
    async with AsyncExitStack() as opened:
        caller = await opened.enter_async_context(Caller.of(stack, f"tenant-{uuid4().hex}", "ada"))
        yield [caller, await opened.enter_async_context(caller.at(stack.urls[1]))]


async def put(operator: httpx.AsyncClient, name: str, **rule) -> dict:
    answer = await operator.put(f"/v1/flags/{name}", json=rule)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def answered(at: Caller, status: int, model: str) -> bool:
    return (await at.post(model)).status_code == status


async def test_two_processes_refuse_what_is_switched_off_for_all_and_a_worker_does_not_begin_what_waits(
    stack, operator, callers
):
    first, _ = callers
    hanging = await first.create("hang:1")
    async for event in first.follow(hanging):
        if event.type == "run.delta":
            break
    waiting, other = await first.create("unicode:3"), await first.create("sim:1")
    await put(operator, "emergency", of={"model": "unicode:*"}, on=False)
    began = time.monotonic()
    for each in callers:
        await until(lambda each=each: answered(each, 403, "unicode:3"), "the process refuses")
    print(f"two processes refused after {time.monotonic() - began:.3f} s")
    refused = (await first.post("unicode:3")).json()["error"]
    assert (refused["code"], refused["param"]) == ("switched_off", "model")
    assert "'emergency'" in refused["message"]
    await first.cancel(hanging)
    failed = await first.ended(waiting)
    assert (failed["status"], failed["error"]["code"], failed["attempt"]) == ("failed", "switched_off", 1)
    assert (await first.ended(other))["status"] == "completed"
    assert not stack.provider_calls("unicode:3")
    assert (await operator.delete("/v1/flags/emergency")).status_code == 204
    for each in callers:
        await until(lambda each=each: answered(each, 202, "unicode:3"), "the process accepts it again")


async def test_a_share_of_a_tenants_users_has_it_and_what_is_decided_is_explained(stack, operator, callers):
    tenant, rule = callers[0].tenant, {"of": {"model": "clock:*"}, "share": 0}
    users = [f"user-{number}" for number in range(8)]
    flag = Flag("new-model", Guarded.MODEL, "clock:*", share=0, tenants={tenant: 0.5})
    expected = [flag.decide(tenant, user).on for user in users]
    assert len(set(expected)) == 2
    await put(operator, "new-model", **rule, tenants={tenant: 0.5})
    async with Caller.server(stack, tenant) as server:
        for user, on in zip(users, expected, strict=True):
            answer = await server.post("clock:1", headers={"Runstream-User": user})
            assert answer.status_code == (202 if on else 403), user
            told = await operator.get("/v1/flags/new-model", params={"tenant": tenant, "user": user})
            assert told.json()["decision"]["on"] is on
            assert told.json()["decision"]["reason"] == "tenant"
    async with Caller.of(stack, f"tenant-{uuid4().hex}", "ada") as stranger:
        refused = await stranger.post("clock:1")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "switched_off")


@pytest.mark.parametrize(
    ("rule", "param"),
    [
        ({}, "of"),
        ({"of": {}}, "of"),
        ({"of": {"model": "a", "feature": "b"}}, "of"),
        ({"of": {"modle": "a"}}, "of.modle.[key]"),
        ({"of": {"model": "a"}, "share": 1.5}, "share"),
        ({"of": {"model": "a"}, "tenants": {"acme": -1}}, "tenants.acme"),
    ],
)
async def test_a_rule_that_means_nothing_is_refused_at_its_place(operator, rule, param):
    answer = await operator.put("/v1/flags/wrong", json=rule)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)
    assert (await operator.get("/v1/flags/wrong")).status_code == 404


async def test_the_commands_do_what_the_routes_do(stack, operator):
    rule = '{"of": {"prompt": "chat/9"}, "tenants": {"acme": 0}}'
    await asyncio.to_thread(stack.command, "flags", "set", "next", rule)
    assert (await operator.get("/v1/flags/next")).json()["rule"]["tenants"] == {"acme": 0}
    assert "is off for ada of acme: tenant" in await asyncio.to_thread(
        stack.command, "flags", "explain", "next", "acme", "ada"
    )
    await asyncio.to_thread(stack.command, "flags", "remove", "next")
    assert (await operator.get("/v1/flags/next")).status_code == 404
    entries = (await operator.get("/v1/audit", params={"target": "next"})).json()["data"]
    assert [(each["principal"]["kind"], each["action"]) for each in entries] == [
        ("command", "flag.removed"),
        ("command", "flag.set"),
    ]
