"""Priorities and tenants' turns as runs carry them: in requests, in rows, and in what the sweep finds."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest

from runstream.domain.ids import new_id
from runstream.domain.principal import Owner
from runstream.domain.run import Priority, Request, Status
from runstream.runs.submit import Asked, _hash
from runstream.storage.left_behind import LeftBehind
from runstream.storage.runs import RunStore

DEADLINE = 20
LONG_AGO = timedelta(minutes=1)


async def add(store: RunStore, tenant: str, priority: Priority = Priority.DEFAULT) -> str:
    run_id = new_id("run")
    request = Request("chat", "1", "m", {"messages": []}, {}, priority=priority)
    await store.insert(run_id, tenant=tenant, user="ada", request=request, queue="q", max_attempts=3)
    return run_id


async def strand(database: asyncpg.Connection) -> None:
    await database.execute("update runs set enqueued_at = now() - $1::interval", LONG_AGO)


async def test_a_priority_is_shown_and_is_the_default_where_none_is_named(unworked):
    for priority in ("high", "default", "low"):
        run_id = await unworked.create(priority=priority)
        assert (await unworked.get(run_id))["priority"] == priority
    answer = (await unworked.post()).json()
    assert answer["priority"] == (await unworked.get(answer["id"]))["priority"] == "default"


@pytest.mark.parametrize("priority", ["urgent", "HIGH", "", 0, -1, None])
async def test_another_priority_is_refused_and_the_answer_names_those_that_there_are(unworked, priority):
    answer = await unworked.post(priority=priority)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, "priority")
    assert all(name in error["message"] for name in ("high", "default", "low"))


@pytest.mark.promise("P4")
async def test_a_priority_is_part_of_what_a_key_stands_for(unworked):
    headers = {"Idempotency-Key": "k"}
    first = await unworked.post(priority="low", headers=headers)
    again = await unworked.post(priority="low", headers=headers)
    assert first.json()["id"] == again.json()["id"]
    assert (await unworked.post(priority="high", headers=headers)).status_code == 409
    assert (await unworked.post(headers=headers)).status_code == 409


@pytest.mark.promise("P4")
async def test_a_key_that_was_used_before_there_were_priorities_finds_its_run() -> None:
    asked = Asked("chat", "m", {"messages": []}, {"k": "v"})
    assert _hash(asked).hex() == "66aa0d7764abd487f06189d5f4554248fcfb98088b43399217f8816f10b52b4e"


async def test_a_priority_stays_with_the_run_for_each_attempt(
    store: RunStore, behind: LeftBehind, database: asyncpg.Connection
) -> None:
    await database.execute("insert into tenants (id) values ('a')")
    await database.execute("insert into workers (id, host, lease_until) values ('w', 'h', now() - interval '1 hour')")
    run_id = await add(store, "a", Priority.HIGH)
    claim = await store.claim("a", run_id, "w")
    assert claim is not None
    (lapsed,) = await behind.lapsed(10)
    run = await store.get(Owner("a", None), run_id)
    assert run is not None
    assert {claim.priority, lapsed.priority, run.priority} == {Priority.HIGH}
    await store.requeue("a", run_id, 1, reason="r", delay=0)
    await strand(database)
    (stranded,) = await behind.stranded(["a"], overdue=5, limit=10)
    assert (stranded.run_id, stranded.tenant, stranded.attempt, stranded.priority) == (run_id, "a", 1, Priority.HIGH)


@pytest.mark.promise("P7")
async def test_the_sweep_finds_a_tenants_only_run_though_another_has_many(
    store: RunStore, behind: LeftBehind, database: asyncpg.Connection
) -> None:
    await database.execute("insert into tenants (id) values ('many'), ('one'), ('other')")
    for _ in range(30):
        await add(store, "many")
    only = await add(store, "one", Priority.LOW)
    high = await add(store, "many", Priority.HIGH)
    tenants = await behind.tenants_waiting(beyond="", limit=10)
    assert tenants == ["many", "one"], "who has none is not looked at"
    assert await behind.stranded(tenants, overdue=5, limit=3) == [], "they have just been enqueued"
    await strand(database)
    found = {run.run_id for run in await behind.stranded(tenants, overdue=5, limit=3)}
    assert found >= {only, high}
    assert len(found) == 3
    later = {run.run_id for run in await behind.stranded(tenants, overdue=5, limit=100)}
    assert (len(later), later & found) == (29, set())


@pytest.mark.promise("P7")
async def test_the_sweep_comes_to_every_tenant_however_many_there_are(
    store: RunStore, behind: LeftBehind, database: asyncpg.Connection
) -> None:
    names = [f"t{number}" for number in range(7)]
    await database.executemany("insert into tenants (id) values ($1)", [(name,) for name in names])
    for name in names:
        await add(store, name)
    beyond, seen = "", []
    while page := await behind.tenants_waiting(beyond=beyond, limit=3):
        seen += page
        beyond = page[-1]
    assert seen == names


@pytest.mark.promise("P7")
async def test_runs_of_a_lost_worker_are_taken_up_by_turns(
    store: RunStore, behind: LeftBehind, database: asyncpg.Connection
) -> None:
    await database.execute("insert into tenants (id) values ('many'), ('one')")
    await database.execute("insert into workers (id, host, lease_until) values ('w', 'h', now() - interval '1 hour')")
    for _ in range(10):
        await store.claim("many", await add(store, "many"), "w")
    only = await add(store, "one")
    await store.claim("one", only, "w")
    lapsed = await behind.lapsed(2)
    assert only in {run.run_id for run in lapsed}
    assert (await store.get(Owner("one", None), only)).status is Status.RUNNING
