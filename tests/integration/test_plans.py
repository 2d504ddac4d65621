"""Plans, and what holds in their place of one tenant: in effect in every process."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from caller import DEADLINE, Caller
from runstream.domain.principal import Kind, Scope
from runstream.domain.usage import dollars
from stack import Stack
from waiting import until

MOST = 150
AT_ONCE = 8


@pytest.fixture(scope="module")
def stack(make_shared_stack: Callable[..., Stack]) -> Stack:
    """Two API processes, and no worker: runs stay queued."""
    limits = json.dumps({"tenant": {"requests_per_minute": 100_000}})
    return make_shared_stack(apis=2, workers=0, limits=limits)


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


async def put(operator: httpx.AsyncClient, plan: str, **allowance: Any) -> None:
    (await operator.put(f"/v1/plans/{plan}", json=allowance)).raise_for_status()


async def change(operator: httpx.AsyncClient, tenant: str, **change: Any) -> dict[str, Any]:
    answer = await operator.patch(f"/v1/tenants/{tenant}", json=change)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def answered(at: Caller, status: int, model: str = "sim:1") -> bool:
    return (await at.post(model)).status_code == status


async def shows(at: Caller, limits: dict[str, int]) -> bool:
    told = (await at.http.get("/v1/limits")).raise_for_status().json()["data"]
    return {each["name"]: each["limit"] for each in told} == limits


async def test_two_processes_go_by_a_plan_and_say_what_it_allows(operator, callers):
    (first, second), tenant = callers, callers[0].tenant
    await put(operator, "small", models=["sim:*", "demo"], features=["chat"])
    await change(operator, tenant, plan="small")
    began = time.monotonic()
    for each in callers:
        await until(lambda each=each: answered(each, 403, "big:1"), "the process refuses the model")
    print(f"two processes went by a plan after {time.monotonic() - began:.3f} s")
    refused = (await first.post("big:1")).json()["error"]
    assert (refused["code"], refused["param"]) == ("model_not_allowed", "model")
    assert "sim:*, demo" in refused["message"]
    kept = await first.create("sim:1")
    await put(operator, "small", features=["summary"])
    for each in callers:
        await until(lambda each=each: answered(each, 403), "the process goes by what the plan says now")
    refused = (await second.post("sim:1")).json()["error"]
    assert (refused["code"], refused["param"]) == ("feature_not_allowed", "feature")
    assert refused["message"].endswith("It allows: summary.")
    assert (await first.get(kept))["status"] == "queued"
    await change(operator, tenant, overrides={"features": ["*"]})
    for each in callers:
        await until(lambda each=each: answered(each, 202), "what is said of the tenant goes before its plan")
    assert (await operator.delete("/v1/plans/small")).status_code == 409
    await change(operator, tenant, plan=None)
    assert (await operator.delete("/v1/plans/small")).status_code == 204


async def test_what_holds_is_shown_with_where_it_comes_from(stack, operator, callers):
    tenant = callers[0].tenant
    await put(operator, "medium", limits={"tenant": {"tokens_per_day": 1000, "cost_per_day": "1.5"}}, retention_days=30)
    overrides = {"limits": {"tenant": {"cost_per_day": 2}, "user": {"concurrent_runs": None}}, "models": ["sim:*"]}
    shown = await change(operator, tenant, plan="medium", overrides=overrides)
    assert (shown["plan"], shown["overrides"]["models"]) == ("medium", ["sim:*"])
    effective = shown["effective"]
    assert {each["name"]: (each["limit"], each["source"]) for each in effective["limits"]} == {
        "tenant.requests_per_minute": (100_000, "configuration"),
        "tenant.tokens_per_day": (1000, "plan"),
        "tenant.cost_per_day": ("2", "override"),
        "user.concurrent_runs": (None, "override"),
    }
    assert effective["models"] == {"value": ["sim:*"], "source": "override"}
    assert effective["retention_days"] == {"value": 30, "source": "plan"}
    assert effective["features"] == {"value": None, "source": "configuration"}
    limits = {
        "tenant.requests_per_minute": 100_000,
        "tenant.tokens_per_day": 1000,
        "tenant.cost_per_day": dollars(Decimal(2)),
    }
    for each in callers:
        await until(lambda each=each: shows(each, limits), "the process has these limits")
    async with Caller.server(stack, tenant, scopes=list(Scope)) as server:
        assert (await server.http.get(f"/v1/tenants/{tenant}")).json()["effective"] == effective


@pytest.mark.promise("P8")
async def test_a_limit_that_comes_while_two_processes_make_runs_lets_through_no_more_than_it_says(
    stack, operator, callers
):
    tenant, answers = callers[0].tenant, Counter()
    stopped = False

    async def ask(caller: Caller) -> None:
        while not stopped:
            answers[(await caller.post("sim:1")).status_code] += 1

    asking = [asyncio.create_task(ask(callers[number % 2])) for number in range(AT_ONCE)]
    await until(lambda: answers[202] >= AT_ONCE, "runs are made")
    await change(operator, tenant, overrides={"limits": {"tenant": {"concurrent_runs": MOST}}})
    limits = {"tenant.requests_per_minute": 100_000, "tenant.concurrent_runs": MOST}
    for each in callers:
        await until(lambda each=each: shows(each, limits), "the process has the limit")
    before = answers[202]
    assert before < MOST, "the limit was reached before it was in effect"
    await until(lambda: answers[429] >= AT_ONCE, "the limit is reached")
    stopped = True
    await asyncio.gather(*asking)
    connection = await asyncpg.connect(stack.database_url, timeout=DEADLINE)
    assert await connection.fetchval("select count(*) from runs where tenant = $1", tenant) == MOST
    await connection.close()
    assert answers.keys() == {202, 429}
    print(f"{before} runs were made before the limit, and {MOST} in the end")


@pytest.mark.parametrize(
    ("allowance", "param"),
    [
        ({"limits": {"tenant": {"tokens_per_year": 1}}}, "limits.tenant.tokens_per_year"),
        ({"limits": {"tenants": {}}}, "limits.tenants"),
        ({"limits": {"user": {"concurrent_runs": "3"}}}, "limits.user.concurrent_runs"),
        ({"retention_days": 0}, "retention_days"),
        ({"models": [""]}, "models.0"),
        ({"price": 1}, "price"),
    ],
)
async def test_a_plan_that_means_nothing_is_refused_at_its_place(operator, allowance, param):
    answer = await operator.put("/v1/plans/wrong", json=allowance)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)
    assert (await operator.get("/v1/plans/wrong")).status_code == 404


async def test_a_plan_that_is_not_there_is_no_tenants(operator, callers):
    tenant = callers[0].tenant
    answer = await operator.patch(f"/v1/tenants/{tenant}", json={"plan": "nowhere", "status": "suspended"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "plan")
    assert (await operator.get(f"/v1/tenants/{tenant}")).json()["status"] == "active"
    assert (await operator.put("/v1/plans/no%20name", json={})).status_code == 422


async def test_the_commands_do_what_the_routes_do(stack, operator, callers):
    tenant = callers[0].tenant
    allowance = '{"limits": {"tenant": {"tokens_per_day": 5}}, "models": ["demo"]}'
    await asyncio.to_thread(stack.command, "plans", "set", "large", allowance)
    assert (await operator.get("/v1/plans/large")).json()["allowance"] == json.loads(allowance)
    await asyncio.to_thread(stack.command, "tenants", "set", tenant, "--plan", "large", "--overrides", "{}")
    shown = await asyncio.to_thread(stack.command, "tenants", "show", tenant)
    assert "plan large" in shown
    assert "5  (plan)" in shown
    assert "demo  (plan)" in shown
    for target, changed in (("large", {"action": "plan.set", "tenant": None}), (tenant, {"action": "tenant.changed"})):
        entry = (await operator.get("/v1/audit", params={"target": target})).json()["data"][0]
        assert entry.items() >= changed.items()
        assert entry["principal"]["kind"] == "command"
