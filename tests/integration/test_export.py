"""An export holds all that a tenant has, exactly as the API shows it, and nothing that is another's or secret."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from caller import Caller
from reliability import rows
from runstream.domain.principal import Kind, Scope
from runstream.storage import exporting
from runstream.storage.database import connect
from runstream.storage.exporting import ExportStore
from stack import Stack

DEADLINE = 60
MODELS = ("reasoning:3:5", "tools:4", "status:400", "error:3")


async def exported(server: Caller, **query: str) -> list[dict[str, Any]]:
    answer = await server.http.get("/v1/export", params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def of_kind(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["object"] == kind]


async def made(caller: Caller) -> list[str]:
    """Runs of all kinds, which have ended; the oldest first."""
    subject, metadata = {"type": "ticket", "id": "933"}, {"k": "v"}
    run_ids = [await caller.create(model, subject=subject, metadata=metadata) for model in MODELS]
    for run_id in run_ids:
        await caller.ended(run_id)
    return run_ids


@pytest.mark.promise("P7")
async def test_a_run_in_an_export_is_what_the_api_shows_of_it(stack: Stack, caller: Caller) -> None:
    run_ids = await made(caller)
    async with (
        Caller.of(stack, "another", "ada") as foreign,
        Caller.of(stack, caller.tenant, "bob") as bob,
        Caller.server(stack, caller.tenant, scopes=list(Scope)) as server,
    ):
        await foreign.ended(await foreign.create())
        of_bob = await bob.create()
        await bob.ended(of_bob)
        hook = await server.http.post("/v1/webhooks", json={"url": "https://hooks.invalid/"})
        for run_id in (run_ids[0], of_bob):
            await server.http.post(f"/v1/runs/{run_id}/feedback", json={"event": "edited", "text": f"better {run_id}"})
        lines = await exported(server)
        runs = of_kind(lines, "run")
        assert [run["id"] for run in runs] == [*run_ids, of_bob]
        for run in runs:
            shown = await server.get(run["id"])
            assert {name: run[name] for name in shown} == shown
            assert run["input"]["messages"] == [{"role": "user", "content": "Count"}]
            events = await server.events(run["id"])
            assert [(event["id"], event["type"], event["data"]) for event in run["events"]] == events
            attempts = await server.http.get(f"/v1/runs/{run['id']}/attempts")
            assert run["attempts"] == attempts.json()["data"]
            assert run.keys() - shown.keys() == {"input", "events", "attempts"}
        ((entries, tokens),) = await rows(
            stack, "select count(*), sum(output_tokens) from ledger where tenant = $1", caller.tenant
        )
        ledger = of_kind(lines, "ledger_entry")
        assert (len(ledger), sum(entry["output_tokens"] for entry in ledger)) == (entries, tokens)
        assert [webhook["id"] for webhook in of_kind(lines, "webhook")] == [hook.json()["id"]]
        feedback = of_kind(lines, "feedback")
        assert [(line["run"], line["text"]) for line in feedback] == [
            (run_id, f"better {run_id}") for run_id in (run_ids[0], of_bob)
        ]
        audit = (await server.http.get("/v1/audit", params={"to": lines[0]["at"]})).json()["data"]
        assert of_kind(lines, "audit_entry") == audit
        assert "webhook.created" in {entry["action"] for entry in audit}
        assert {key["user"] for key in of_kind(lines, "key")} == {"ada", "bob", "server"}
        assert (lines[0]["object"], lines[0]["tenant"]) == ("export", caller.tenant)
        counted = Counter(line["object"] for line in lines[1:-1])
        assert lines[-1] == {"object": "export_end", "lines": dict(counted)}
        told = json.dumps(lines)
        for secret in (hook.json()["secret"], server.key, caller.key):
            assert secret not in told


async def test_an_export_of_one_user_is_of_that_user_alone(stack: Stack, caller: Caller) -> None:
    async with (
        Caller.of(stack, caller.tenant, "bob") as bob,
        Caller.server(stack, caller.tenant, scopes=list(Scope)) as server,
    ):
        run_ids = [await each.create() for each in (caller, bob)]
        for run_id in run_ids:
            await server.ended(run_id)
        lines = await exported(server, user="bob")
        assert [run["id"] for run in of_kind(lines, "run")] == run_ids[1:]
        assert {line["user"] for line in lines if "user" in line} == {"bob"}
        assert Counter(line["object"] for line in lines) == Counter(
            ["export", "run", "ledger_entry", "key", "export_end"]
        )


async def test_a_run_that_goes_on_is_exported_without_events(stack: Stack, unworked: Caller) -> None:
    run_id = await unworked.create()
    async with Caller.server(stack, unworked.tenant, scopes=list(Scope)) as server:
        lines = await exported(server)
    (run,) = of_kind(lines, "run")
    assert (run["id"], run["status"], run["events"], run["attempts"]) == (run_id, "queued", None, [])
    assert lines[-1]["lines"]["run"] == 1


async def test_pages_follow_each_other_without_a_gap_or_a_repeat_and_are_small_where_runs_are_large(
    stack: Stack, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ids = [await caller.create("unicode:20") for _ in range(12)]
    for run_id in run_ids:
        await caller.ended(run_id)
    monkeypatch.setattr(exporting, "_PAGE_CHARACTERS", 100)
    monkeypatch.setattr(exporting, "_ENTRIES", 5)
    engine = connect(stack.database_url, pool_size=1, timeout=DEADLINE)
    try:
        store = ExportStore(engine)
        at = await store.now()
        assert [whole.run.id async for whole in store.runs(caller.tenant, None, at)] == run_ids
        entries = [entry["run_id"] async for entry in store.ledger(caller.tenant, None, at)]
        assert sorted(entries) == run_ids
    finally:
        await engine.dispose()


async def test_an_export_by_command_is_that_of_the_api(stack: Stack, caller: Caller) -> None:
    await caller.ended(await caller.create())
    async with Caller.server(stack, caller.tenant, scopes=list(Scope)) as server:
        printed = await asyncio.to_thread(stack.command, "export", caller.tenant, "--user", "ada")
        lines = [json.loads(line) for line in printed.splitlines()]
        shown = await exported(server, user="ada")
    for each in (lines, shown):
        each[0].pop("at")
        for key in of_kind(each, "key"):
            key.pop("last_used_at")
    assert lines == shown


async def test_only_who_administers_a_tenant_has_it_exported(stack: Stack, caller: Caller) -> None:
    async with Caller(stack.url, stack.create_key(caller.tenant, None, Kind.SERVER), caller.tenant, "") as server:
        for who in (caller, server):
            assert (await who.http.get("/v1/export")).status_code == 403


async def test_deleting_erasing_and_exporting_are_in_the_audit_log(stack: Stack, caller: Caller) -> None:
    own, run_id = [await caller.create() for _ in range(2)]
    async with Caller(
        stack.url, stack.create_key(caller.tenant, None, Kind.SERVER, list(Scope)), caller.tenant, ""
    ) as server:
        for who, each in ((caller, own), (server, run_id)):
            await who.ended(each)
            assert (await who.http.delete(f"/v1/runs/{each}")).status_code == 204
        await exported(server)
        erasure = (await server.http.delete("/v1/users/nobody")).json()
        entries = (await server.http.get("/v1/audit")).raise_for_status().json()["data"]
    told = [(entry["action"], entry["target"]["id"]) for entry in entries]
    assert told == [("user.erased", erasure["id"]), ("tenant.exported", caller.tenant), ("run.deleted", run_id)]
