"""Once a user was erased, nothing that they wrote or were answered is found in any table, nor anywhere in Redis."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
import redis

from caller import Caller, own_model
from everywhere import found
from reliability import logged, rows
from runstream.domain.principal import Scope
from stack import Stack
from waiting import until

LONG = 60


def marker(name: str) -> str:
    """A word that is nowhere else."""
    return f"{name}{uuid4().hex}"


class Words(dict[str, str]):
    """A word for each field that a user can fill."""

    def __missing__(self, field: str) -> str:
        self[field] = marker(field)
        return self[field]


def asking(words: Words, n: int) -> dict[str, Any]:
    """A request with a word in every field."""
    call = {"id": words["call"], "type": "function", "function": {"name": "f", "arguments": words["arguments"]}}
    tool = {"name": words["tool"], "description": words["description"], "parameters": {words["schema"]: {}}}
    messages = [
        {"role": "system", "content": words["system"]},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": words["call"], "content": words["result"]},
        {"role": "user", "content": [{"type": "text", "text": words["part"]}], "name": words["name"]},
        {"role": "user", "content": words[f"prompt{n}"]},
    ]
    return {
        "feature": "chat",
        "input": {"messages": messages, "tools": [{"type": "function", "function": tool}]},
        "metadata": {words["key"]: words["value"]},
        "subject": {"type": words["subject"], "id": words["id"]},
    }


async def webhook(server: Caller) -> str:
    """Of the tenant: it is to be told of all that happens, and its server is not there."""
    asked = {"url": "https://hooks.invalid/", "include_output": True}
    return (await server.http.post("/v1/webhooks", json=asked)).raise_for_status().json()["id"]


async def erased(server: Caller, user: str) -> dict[str, Any]:
    answer = await server.http.delete(f"/v1/users/{user}")
    assert answer.status_code == 202, answer.text
    path = answer.headers["Location"]

    async def state() -> dict[str, Any]:
        return (await server.http.get(path)).raise_for_status().json()

    async def done() -> bool:
        return (await state())["status"] == "done"

    await until(done, "the user is erased")
    return await state()


@pytest.mark.promise("P7")
async def test_nothing_of_a_user_is_found_in_any_table_nor_in_redis_once_they_are_erased(stack: Stack) -> None:
    tenant, ada, words = f"tenant-{uuid4().hex}", marker("ada"), Words()
    async with Caller.of(stack, tenant, ada) as user, Caller.server(stack, tenant, scopes=list(Scope)) as server:
        hook = await webhook(server)
        models = ["demo", own_model(LONG), "tools:4", "reasoning:5", "status:400", "error:3", "unicode:5000:50"]
        run_ids = []
        for n, model in enumerate(models):
            body = {**asking(words, n), "model": model, "cache": "read"}
            headers = {"Idempotency-Key": words["idempotency"] + str(n)}
            answer = await user.http.post("/v1/runs", json=body, headers=headers)
            assert answer.status_code == 202, answer.text
            run_ids.append(answer.json()["id"])
        await until(lambda: words["prompt0"] in said(stack, run_ids[0]), "the provider has quoted the prompt")
        await user.cancel(run_ids[0])
        for run_id in run_ids[1:-1]:
            await user.ended(run_id)
        await until(lambda: len(logged(stack, run_ids[-1])) > 2, "one goes on as the user is erased")
        before = await found(stack, [*words.values(), ada])
        assert {word for word, _ in before} == {word.lower() for word in [*words.values(), ada]}
        assert {"runs", "webhook_deliveries", "redis run"} <= {place for _, place in before}

        erasure = await erased(server, ada)

        assert erasure["runs"] == len(models)
        assert await found(stack, [*words.values(), ada]) == set()

        async def revoked() -> bool:
            return (await user.http.get("/v1/runs")).status_code == 401

        await until(revoked, "the user's key is revoked")
        ((calls, whose),) = await rows(
            stack, "select count(*), array_agg(distinct user_id) from ledger where tenant = $1", tenant
        )
        assert (calls >= len(models) - 1, whose) == (True, [erasure["id"]]), "what was spent stays spent"
        assert (await server.http.get(f"/v1/webhooks/{hook}/deliveries")).json()["data"] == []


def said(stack: Stack, run_id: str) -> str:
    """All that the run's log holds."""
    with redis.Redis.from_url(stack.redis_url, socket_timeout=60) as client:
        entries = client.xrange(f"runstream:run:{run_id}")
    return "".join(fields[b"e"].decode() for _, fields in entries)


async def test_what_others_have_and_what_comes_afterwards_stays(stack: Stack) -> None:
    tenant, ada = f"tenant-{uuid4().hex}", "ada / of acme"
    async with (
        Caller.of(stack, tenant, ada) as user,
        Caller.of(stack, tenant, "bob") as bob,
        Caller.of(stack, "another", ada) as namesake,
        Caller.server(stack, tenant, scopes=list(Scope)) as server,
    ):
        gone, *kept = [await each.create() for each in (user, bob, namesake)]
        for each, run_id in zip((user, bob, namesake), (gone, *kept), strict=True):
            await each.ended(run_id)
        await erased(server, "ada%20%2F%20of%20acme")
        acting = {"Runstream-User": "ada%20%2F%20of%20acme"}
        later = (
            await server.http.post(
                "/v1/runs",
                json={
                    "feature": "chat",
                    "model": "sim:3",
                    "input": {"messages": [{"role": "user", "content": "again"}]},
                },
                headers=acting,
            )
        ).json()["id"]
        await server.ended(later)
        assert set(await server.list()) == {kept[0], later}
        assert await namesake.list() == [kept[1]]
        assert (await bob.get(kept[0]))["output"]


async def test_a_user_without_anything_is_erased_and_a_name_that_is_none_is_refused(stack: Stack) -> None:
    async with Caller.server(stack, f"tenant-{uuid4().hex}", scopes=list(Scope)) as server:
        assert (await erased(server, "nobody"))["runs"] == 0
        assert (await server.http.delete("/v1/users/" + "x" * 129)).status_code == 422
        assert (await server.http.get("/v1/erasures/era_01h00000000000000000000000")).status_code == 404


async def test_a_user_is_erased_by_command(stack: Stack) -> None:
    async with Caller.of(stack, f"tenant-{uuid4().hex}", "ada") as user:
        await user.ended(await user.create())
        said = await asyncio.to_thread(stack.command, "erase-user", user.tenant, "ada")
        erasure = said.split()[-1]

        async def done() -> bool:
            return bool(await rows(stack, "select from erasures where id = $1 and done_at is not null", erasure))

        await until(done, "the user is erased")
        assert not await rows(stack, "select from runs where tenant = $1", user.tenant)
