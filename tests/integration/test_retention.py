"""What is kept for a time is removed when that is over; the run stays, and says so. Rows are made older."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from caller import Caller, own_model
from everywhere import in_postgres
from reliability import rows
from rows_read import rows_read
from runstream.connections import retention
from runstream.domain.retention import Content, Kept, Retention
from runstream.domain.terms import Allowance, Source, TenantTerms, Terms
from runstream.runs.retain import Retain
from runstream.settings import Settings
from runstream.storage.database import connect
from runstream.storage.retention import RetentionStore
from stack import Stack

DEADLINE = 60
DAY = timedelta(days=1)
FILLED, OLD = 20_000, 500
"""Runs of one tenant, of which these ended more than a month ago."""
FILL = f"""
    INSERT INTO tenants (id) SELECT 'tenant-' || n FROM generate_series(0, 50) n;
    INSERT INTO runs (id, tenant, user_id, feature, prompt_version, input, model, queue, status, max_attempts, output,
                      created_at, finished_at)
        SELECT 'run_' || lpad(n::text, 26, '0'), 'tenant-0', 'ada', 'chat', '1', '{{"asked": 1}}', 'fast', 'default',
               'completed', 3, 'said', now(), now() - interval '1 day' * CASE WHEN n < {OLD} THEN 40 ELSE 3 END
        FROM generate_series(0, {FILLED - 1}) n;
    ANALYZE;
    DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET plan_cache_mode = force_generic_plan', current_database()); END $$
"""

NO_CONTENT = {
    *("id", "tenant", "user_id", "feature", "prompt_version", "policy", "model", "complexity", "queue", "status"),
    *("provider", "provider_model", "provider_request_id", "worker", "restart_reason", "finish_reason", "feedback"),
}
"""Columns of a run that say nothing of what was asked and answered."""


@pytest.fixture
async def other_engine(stack: Stack) -> AsyncIterator[AsyncEngine]:
    engine = connect(stack.database_url, pool_size=1, timeout=DEADLINE)
    yield engine
    await engine.dispose()


async def retain(engine: AsyncEngine, tenant: str, **days: int) -> None:
    """As a sweep does it, with this tenant's setting."""
    kept: Kept = {Content(kind): days * DAY for kind, days in days.items()}
    await Retain(RetentionStore(engine), Retention({}, {tenant: kept}), interval=0)()


async def old_run(stack: Stack, caller: Caller, model: str, days: int = 40, **fields: Any) -> str:
    """A run that ended so long ago."""
    run_id = await caller.create(model, **fields)
    await caller.ended(run_id)
    query = "update runs set finished_at = finished_at - make_interval(days => $2) where id = $1"
    await rows(stack, query, run_id, days)
    return run_id


async def asked(stack: Stack, run_id: str) -> Any:
    return json.loads((await rows(stack, "select input from runs where id = $1", run_id))[0][0])


async def test_each_kind_of_content_is_kept_for_its_own_time(stack: Stack, caller: Caller, other_engine) -> None:
    subject, metadata = {"type": "ticket", "id": "933"}, {"k": "v"}
    run_ids = [
        await old_run(stack, caller, "reasoning:3:5", days, subject=subject, metadata=metadata)
        for days in (40, 20, 9, 2)
    ]
    before = [await caller.get(run_id) for run_id in run_ids]
    await retain(other_engine, caller.tenant, input=30, output=15, transcript=7)
    runs = [await caller.get(run_id) for run_id in run_ids]
    removed = [[kind for kind, at in run.get("removed", {}).items() if at] for run in runs]
    assert removed == [["input", "output", "transcript"], ["output", "transcript"], ["transcript"], []]
    assert [run["output"] for run in runs] == [None, None, before[2]["output"], before[3]["output"]]
    assert [run["subject"] for run in runs] == [None, subject, subject, subject]
    assert [run["metadata"] for run in runs] == [{}, metadata, metadata, metadata]
    assert [bool(await asked(stack, run_id)) for run_id in run_ids] == [False, True, True, True]
    for run, was in zip(runs, before, strict=True):
        for name in ("status", "usage", "cost", "created_at", "user", "model", "finish_reason"):
            assert run[name] == was[name], name
    spent = (await caller.http.get("/v1/usage")).json()["data"][0]
    assert spent["output_tokens"] == 4 * 8


async def test_events_that_are_not_kept_are_said_to_be_gone(stack: Stack, caller: Caller, other_engine) -> None:
    run_id = await old_run(stack, caller, "sim:5")
    await retain(other_engine, caller.tenant, transcript=30)
    for after in (None, "1-3", "1-999999"):
        answer = await caller.http.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": after} if after else {})
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "content_removed")
    assert (await caller.get(run_id))["output"]["text"]


async def test_what_was_said_of_an_error_and_to_webhooks_goes_with_the_rest(
    stack: Stack, caller: Caller, other_engine
) -> None:
    words = [f"{name}{uuid4().hex}" for name in ("value", "subject")]
    model = f"sim:{uuid4().hex}"
    async with Caller.server(stack, caller.tenant, scopes=["admin"]) as server:
        (await server.http.post("/v1/webhooks", json={"url": "https://hooks.invalid/"})).raise_for_status()
    run_id = await old_run(stack, caller, model, metadata={"k": words[0]}, subject={"type": "ticket", "id": words[1]})
    said = (await caller.get(run_id))["error"]["message"]
    assert model in said
    words.append(f"comment{uuid4().hex}")
    await caller.http.post(f"/v1/runs/{run_id}/feedback", json={"event": "discarded", "comment": words[-1]})
    await retain(other_engine, caller.tenant, input=30, output=30)
    assert (await caller.get(run_id))["error"]["message"] == "It was removed."
    attempts = (await caller.http.get(f"/v1/runs/{run_id}/attempts")).json()["data"]
    assert [attempt["error"]["message"] for attempt in attempts] == ["It was removed."]
    assert await in_postgres(stack, words) == set()
    ((data,),) = await rows(stack, "select data from webhook_deliveries where run_id = $1", run_id)
    assert json.loads(data)["error"]["message"] == "It was removed."


async def test_a_run_whose_input_is_not_kept_is_not_tried_again(stack: Stack, caller: Caller, other_engine) -> None:
    run_ids = [await old_run(stack, caller, "status:400", days) for days in (40, 20)]
    await retain(other_engine, caller.tenant, input=30, output=10)
    refused, again = [await caller.http.post(f"/v1/runs/{run_id}/retry") for run_id in run_ids]
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert "not kept" in refused.json()["error"]["message"]
    assert again.status_code == 202
    ended = await caller.ended(run_ids[1])
    assert ("removed" in ended, ended["error"]["message"] != "It was removed.") == (False, True)
    assert await caller.events(run_ids[1])


async def test_an_answer_that_is_not_kept_is_given_to_nobody(stack: Stack, caller: Caller, other_engine) -> None:
    model = own_model(60)
    run_id = await caller.create(model, cache="read")
    await caller.ended(run_id)
    await rows(stack, "update runs set transcript = null, transcript_removed_at = now() where id = $1", run_id)
    again = await caller.ended(await caller.create(model, cache="read"))
    assert (again["status"], again["cached"]) == ("completed", False)


async def test_every_column_of_a_run_that_can_hold_what_was_said_is_removed(
    stack: Stack, caller: Caller, other_engine
) -> None:
    """As the catalogue has them: of a new column it is to be said what it is."""
    run_id = await old_run(stack, caller, "sim:5")
    query = """
        select column_name, data_type from information_schema.columns
        where table_name = 'runs' and data_type in ('text', 'jsonb', 'character varying', 'bytea')
    """
    words = {name: f"{name}{uuid4().hex}" for name, _ in await rows(stack, query) if name not in NO_CONTENT}
    kinds = dict(await rows(stack, query))
    for name, word in words.items():
        value = {"jsonb": json.dumps({"message": word}), "bytea": word.encode()}.get(kinds[name], word)
        await rows(stack, f"update runs set {name} = $2 where id = $1", run_id, value)
    assert {word for word, _ in await in_postgres(stack, list(words.values()))} == set(words.values())
    await retain(other_engine, caller.tenant, input=30, output=30, transcript=30)
    assert await in_postgres(stack, list(words.values())) == set()


async def test_content_is_removed_by_the_index_and_what_was_removed_is_not_read_again(database_url: str) -> None:
    connection = await asyncpg.connect(database_url, timeout=DEADLINE, command_timeout=DEADLINE)
    await connection.execute(FILL)
    engine = connect(database_url, pool_size=1, timeout=DEADLINE)
    sweep = Retain(RetentionStore(engine), Retention({Content.INPUT: 30 * DAY, Content.OUTPUT: 30 * DAY}), interval=0)
    tables = ("runs", "attempts", "webhook_deliveries", "retention_marks")
    try:
        left = "select count(*) from runs where input ? 'asked' or output is not null"
        assert await rows_read(engine, sweep, *tables) < 10 * OLD
        assert await connection.fetchval(left) == FILLED - OLD
        assert await rows_read(engine, sweep, *tables) < 10
    finally:
        await engine.dispose()
        await connection.close()


def test_a_tenant_has_what_is_set_for_all_but_for_what_is_said_of_it() -> None:
    given = {"input": 90, "transcript": 7, "tenants": {"acme": {"output": 30, "input": None}}}
    kept = retention(Settings(_env_file=None, retention=given), Terms)
    assert kept.of("globex") == {Content.INPUT: 90 * DAY, Content.TRANSCRIPT: 7 * DAY}
    assert kept.of("acme") == {Content.OUTPUT: 30 * DAY, Content.TRANSCRIPT: 7 * DAY}
    assert not retention(Settings(_env_file=None), Terms).any


def test_what_a_plan_says_is_of_all_kinds_and_goes_before_what_is_configured() -> None:
    plan, own = (Allowance(retention_days=days) for days in (30, 3))
    tenants = {
        "planned": TenantTerms(allowances=((Source.PLAN, plan),)),
        "special": TenantTerms(allowances=((Source.PLAN, plan), (Source.OVERRIDE, own))),
        "silent": TenantTerms(allowances=((Source.PLAN, Allowance()),)),
    }
    kept = retention(Settings(_env_file=None), lambda: Terms(tenants=tenants))
    assert kept.any
    assert kept.of("planned") == dict.fromkeys(Content, 30 * DAY)
    assert kept.of("special") == dict.fromkeys(Content, 3 * DAY)
    assert kept.of("silent") == {}
