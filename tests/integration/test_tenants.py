"""Tenants are suspended, resumed and removed, in effect in every process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from uuid import uuid4

import asyncpg
import httpx
import pytest
from redis.asyncio import Redis

from caller import DEADLINE, Caller
from proxy import Proxy
from runstream.domain.audit import Actor, ActorKind
from runstream.domain.errors import Unavailable
from runstream.domain.principal import Kind, Scope
from runstream.domain.terms import Standing
from runstream.redis_script import Scripts
from runstream.storage.audit import AuditStore
from runstream.storage.database import connect
from runstream.storage.left_behind import LeftBehind
from runstream.storage.lists import AllRuns
from runstream.storage.removal import RemovalStore
from runstream.storage.tenancy import Role
from runstream.storage.terms import TermsStore
from runstream.stream.log import TokenLog
from runstream.terms.copy import TermsCopy
from runstream.terms.removal import Removal
from stack import Stack
from waiting import until

SLOTS = 2


@pytest.fixture(scope="module")
def stack(make_shared_stack: Callable[..., Stack]) -> Stack:
    return make_shared_stack(apis=2, workers=1, worker_slots=str(SLOTS), heartbeat="0.5")


@pytest.fixture
async def operator(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    bearing = {"Authorization": f"Bearer {stack.create_key(None, None, Kind.OPERATOR)}"}
    async with httpx.AsyncClient(base_url=stack.url, headers=bearing, timeout=DEADLINE) as client:
        yield client


@pytest.fixture
async def caller(stack: Stack) -> AsyncIterator[Caller]:
    async with Caller.of(stack, f"tenant-{uuid4().hex}", "ada") as caller:
        yield caller


@pytest.fixture
async def database(stack: Stack) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(stack.database_url, timeout=DEADLINE)
    yield connection
    await connection.close()


async def change(operator: httpx.AsyncClient, tenant: str, status: str, **more: bool) -> dict:
    answer = await operator.patch(f"/v1/tenants/{tenant}", json={"status": status, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def answered(at: Caller, status: int) -> bool:
    return (await at.post("sim:1")).status_code == status


async def test_two_processes_refuse_the_runs_of_a_suspended_tenant_and_go_on_showing_what_there_is(
    stack, operator, caller
):
    key = {"Idempotency-Key": "before"}
    ended = (await caller.post("sim:1", headers=key)).json()["id"]
    await caller.ended(ended)
    running = await caller.create("hang:1")
    async with AsyncExitStack() as opened:
        callers = [await opened.enter_async_context(caller.at(url)) for url in stack.urls]
        shown = await change(operator, caller.tenant, "suspended")
        began = time.monotonic()
        assert (shown["status"], shown["cancel_running"]) == ("suspended", False)
        for each in callers:
            await until(lambda each=each: answered(each, 403), "the process refuses")
        print(f"two processes refused after {time.monotonic() - began:.3f} s")
        for each in callers:
            refused = (await each.post()).json()["error"]
            assert refused["code"] == "tenant_suspended"
            assert (await each.http.post(f"/v1/runs/{ended}/retry")).status_code == 409
            assert (await each.get(ended))["status"] == "completed"
            replayed = await each.post("sim:1", headers=key)
            assert (replayed.json()["id"], replayed.headers["idempotency-replayed"]) == (ended, "true")
        assert (await caller.get(running))["status"] == "running"
        assert (await caller.cancel(running))["status"] == "cancelled"
        assert (await caller.http.post(f"/v1/runs/{running}/retry")).json()["error"]["code"] == "tenant_suspended"
        await change(operator, caller.tenant, "active")
        for each in callers:
            await until(lambda each=each: answered(each, 202), "the process accepts again")


async def test_a_change_of_which_nobody_was_told_is_found(stack, caller):
    engine = connect(stack.database_url, pool_size=1, timeout=DEADLINE)
    try:
        await TermsStore(engine).suspend(caller.tenant, cancel_running=False)
        await until(lambda: answered(caller, 403), "the process has looked")
    finally:
        await engine.dispose()


async def test_while_postgres_is_away_what_was_read_last_holds(stack, caller):
    with Proxy.to(stack.database_url) as proxy:
        engine = connect(proxy.through(stack.database_url), pool_size=1, timeout=DEADLINE)
        store = TermsStore(engine)
        await store.suspend(caller.tenant, cancel_running=False)
        terms, late = TermsCopy(store), TermsCopy(store)
        await terms.read()
        proxy.cut()
        for copy in (terms, late):
            with pytest.raises(Unavailable):
                await copy.read()
        assert terms().of(caller.tenant).standing is Standing.SUSPENDED
        with pytest.raises(Unavailable):
            late()
        proxy.mend()
        await store.resume(caller.tenant)
        for copy in (terms, late):
            await copy.read()
            assert copy().of(caller.tenant).standing is Standing.ACTIVE
        await engine.dispose()


async def filled(stack: Stack, opened: AsyncExitStack) -> tuple[Caller, list[str]]:
    """Somebody else, who has all of the worker's slots."""
    other = await opened.enter_async_context(Caller.of(stack, f"tenant-{uuid4().hex}", "bob"))
    hanging = [await other.create("hang:1") for _ in range(SLOTS)]
    for run_id in hanging:
        await until(lambda run_id=run_id: is_(other, run_id, "running"), "the slot is taken")
    return other, hanging


async def is_(caller: Caller, run_id: str, status: str) -> bool:
    return (await caller.get(run_id))["status"] == status


@pytest.mark.promise("P7")
async def test_queued_runs_of_a_suspended_tenant_wait_without_an_attempt_and_hold_nobody_up_until_it_is_resumed(
    stack, operator, caller, database
):
    async with AsyncExitStack() as opened:
        other, hanging = await filled(stack, opened)
        waiting = [await caller.create("sim:1") for _ in range(3)]
        engine = connect(stack.database_url, pool_size=1, timeout=DEADLINE)
        opened.push_async_callback(engine.dispose)
        assert (await AllRuns(engine).queued("default"))[caller.tenant] == len(waiting)
        await change(operator, caller.tenant, "suspended")
        for run_id in hanging:
            await other.cancel(run_id)
        redis = await opened.enter_async_context(Redis.from_url(stack.redis_url))
        await until(lambda: not_due(redis, caller.tenant), "the worker has taken and let go of them")
        await other.ended(await other.create("sim:1"))
        assert caller.tenant not in await AllRuns(engine).queued("default")
        await database.execute("update runs set enqueued_at = now() - interval '1 minute' where status = 'queued'")
        assert await LeftBehind(engine).stranded([caller.tenant], overdue=5, limit=10) == []
        runs = [await caller.get(run_id) for run_id in waiting]
        assert [(run["status"], run["attempt"]) for run in runs] == [("queued", 0)] * len(waiting)
        assert await not_due(redis, caller.tenant)
        await change(operator, caller.tenant, "active")
        began = time.monotonic()
        for run_id in waiting:
            assert (await caller.ended(run_id))["status"] == "completed"
        print(f"{len(waiting)} runs were done {time.monotonic() - began:.3f} s after the tenant was resumed")


async def not_due(redis: Redis, tenant: str) -> bool:
    return not await redis.exists(f"runstream:queue:default:due:{tenant}")


@pytest.mark.promise("P6")
async def test_what_runs_of_a_suspended_tenant_is_cancelled_where_that_is_asked_for(operator, caller):
    running = await caller.create("hang:3")
    await until(lambda: is_(caller, running, "running"), "it runs")
    assert (await change(operator, caller.tenant, "suspended", cancel_running=True))["cancel_running"]
    assert (await caller.ended(running))["status"] == "cancelled"
    await change(operator, caller.tenant, "active")
    await until(lambda: answered(caller, 202), "it is served again")
    assert not (await operator.get(f"/v1/tenants/{caller.tenant}")).json()["cancel_running"]


async def test_a_tenant_is_removed_with_all_that_there_is_of_it_and_another_of_its_name_knows_nothing_of_it(
    stack, operator, caller, database
):
    tenant = caller.tenant
    async with Caller.server(stack, tenant, scopes=list(Scope)) as server, Caller.of(stack, "stays", "bob") as other:
        stays = await other.create("sim:1")
        await other.ended(stays)
        assert (await server.http.post("/v1/webhooks", json={"url": "https://example.com/"})).status_code == 201
        await caller.ended(await caller.create("sim:1"))
        running = await caller.create("hang:1")
        assert (await operator.delete(f"/v1/tenants/{tenant}")).status_code == 409  # not suspended
        await change(operator, tenant, "suspended")
        assert await rows_of(database, tenant) >= {"tenants", "api_keys", "runs", "attempts", "ledger", "webhooks"}
        removing = await operator.delete(f"/v1/tenants/{tenant}")
        assert (removing.status_code, removing.json()["status"]) == (202, "removing")
        for status in ("active", "suspended"):
            assert (await operator.patch(f"/v1/tenants/{tenant}", json={"status": status})).status_code == 409
        asked = (await operator.get("/v1/audit", params={"target": tenant, "limit": 1})).json()["data"][0]
        assert asked["action"] == "tenant.removal_requested"
        await until(lambda: unknown(server), "its keys are refused")
        await until(lambda: holds(database, tenant, {"tenants", "api_keys", "audit"}), "the workers have deleted it")
        async with Redis.from_url(stack.redis_url) as redis:
            assert not await redis.exists(f"runstream:run:{running}")
        with pytest.raises(Exception, match="being removed"):
            await asyncio.to_thread(stack.create_key, tenant, "ada")
        await end_removals(stack)
        assert await rows_of(database, tenant) == set()
        assert (await operator.get(f"/v1/tenants/{tenant}")).status_code == 404
        assert await logged(operator, tenant) == [("tenant.removed", None)]
        (entry,) = (await operator.get("/v1/audit", params={"target": tenant})).json()["data"]
        assert (entry["principal"], entry["request_id"]) == (asked["principal"], asked["request_id"])
        assert (await operator.post("/v1/tenants", json={"id": tenant})).status_code == 201
        async with Caller.server(stack, tenant, scopes=list(Scope)) as successor:
            seen = (await successor.http.get("/v1/audit")).json()["data"]
            assert [each["action"] for each in seen] == ["tenant.created"]
        async with Caller.of(stack, tenant, "ada") as successor:
            await until(lambda: answered(successor, 202), "the name is free")
            assert len(await successor.list()) == 1
        assert (await other.get(stays))["status"] == "completed"


async def logged(operator: httpx.AsyncClient, tenant: str) -> list[tuple[str, str | None]]:
    """What was done with it and whose the entry is, the newest first."""
    page = (await operator.get("/v1/audit", params={"target": tenant})).raise_for_status().json()
    return [(each["action"], each["tenant"]) for each in page["data"]]


async def unknown(caller: Caller) -> bool:
    return (await caller.http.get("/v1/runs")).status_code == 401


async def rows_of(database: asyncpg.Connection, tenant: str) -> set[str]:
    """The tables that have any row of the tenant's."""
    columns = await database.fetch(
        "select table_name, column_name from information_schema.columns where table_schema = 'public'"
        " and (column_name = 'tenant' or (table_name, column_name) = ('tenants', 'id'))"
    )
    return {
        table
        for table, column in columns
        if await database.fetchval(f"select exists (select from {table} where {column} = $1)", tenant)
    }


async def holds(database: asyncpg.Connection, tenant: str, tables: set[str]) -> bool:
    return await rows_of(database, tenant) == tables


async def end_removals(stack: Stack) -> None:
    """As a worker would a minute later: keys may go at once."""
    engine = connect(stack.database_url, pool_size=1, timeout=DEADLINE, role=Role.SWEEP)
    by = Actor(ActorKind.COMMAND, "root", "req_1")
    async with Redis.from_url(stack.redis_url) as redis:
        scripts = Scripts(redis, timeout=DEADLINE)
        store = TermsStore(engine)
        terms = TermsCopy(store)
        await terms.read()
        log = TokenLog(redis, scripts, ttl=60, ended_ttl=60)
        audit = AuditStore(engine, engine)
        await Removal(RemovalStore(engine), store, audit, log, redis, terms, by=by, key_rest=0)()
        await scripts.aclose()
    await engine.dispose()


async def test_the_commands_do_what_the_routes_do(stack, operator):
    tenant = f"tenant-{uuid4().hex}"
    for command, status in (("create", "active"), ("suspend", "suspended"), ("resume", "active")):
        printed = await asyncio.to_thread(stack.command, "tenants", command, tenant)
        assert f"{tenant}  {status}" in printed
        assert (await operator.get(f"/v1/tenants/{tenant}")).json()["status"] == status
    assert f"{tenant}  active" in await asyncio.to_thread(stack.command, "tenants", "list")
    entries = (await operator.get("/v1/audit", params={"target": tenant})).json()["data"]
    assert [(each["principal"]["kind"], each["action"]) for each in entries] == [
        ("command", f"tenant.{done}") for done in ("resumed", "suspended", "created")
    ]


async def test_a_list_has_all_tenants_page_by_page(stack, operator, caller):
    found, cursor = [], {}
    while True:
        page = (await operator.get("/v1/tenants", params={"limit": 2, **cursor})).raise_for_status().json()
        found += [each["id"] for each in page["data"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert found == sorted(set(found))
    assert caller.tenant in found


@pytest.mark.parametrize("wrong", [{"status": "removing"}, {"status": "x"}, {}, {"status": "active", "plan": 1}])
async def test_a_change_that_means_nothing_is_refused(operator, caller, wrong):
    assert (await operator.patch(f"/v1/tenants/{caller.tenant}", json=wrong)).status_code == 422
