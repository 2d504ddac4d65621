"""A run's token over HTTP: a server mints it, and whoever has it needs nothing else."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from caller import DEADLINE, Caller, body, sent, text_of, words
from runstream.domain.ids import new_id
from runstream.domain.principal import Kind, Scope
from stack import Stack


async def minted(asking: httpx.AsyncClient, run_id: str, **asked: Any) -> dict[str, Any]:
    answer = await asking.post(f"/v1/runs/{run_id}/token", json=asked)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def bearing(token: str, **headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **headers}


async def test_a_token_reads_its_run_at_any_process_and_after_any_cut(
    stack: Stack, caller: Caller, unworked_url: str
) -> None:
    run_id = await caller.create("sim:30")
    await caller.ended(run_id)
    token = await minted(caller.http, run_id)
    left = datetime.fromisoformat(token["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=14) < left <= timedelta(minutes=15)
    assert (token["object"], token["run_id"], token["access"]) == ("run_token", run_id, "read")
    async with httpx.AsyncClient(timeout=DEADLINE) as tab:
        for url in (stack.url, unworked_url):
            run = await tab.get(f"{url}/v1/runs/{run_id}", headers=bearing(token["token"]))
            assert run.json()["output"] == {"text": words(30)}
            for after, text in ((None, words(30)), ("1-11", words(30)[10:])):
                headers = bearing(token["token"], **({"Last-Event-ID": after} if after else {}))
                async with tab.stream("GET", f"{url}/v1/runs/{run_id}/events", headers=headers) as response:
                    assert text_of([event async for event in sent(response)]) == text
            attempts = await tab.get(f"{url}/v1/runs/{run_id}/attempts", headers=bearing(token["token"]))
            assert attempts.status_code == 200


async def test_it_cancels_only_where_that_was_asked_for(caller: Caller, unworked: Caller) -> None:
    run_id = await unworked.create("sim:5")
    for access, status in (("read", 403), ("read_and_cancel", 200)):
        token = (await minted(unworked.http, run_id, access=access))["token"]
        answer = await unworked.http.post(f"/v1/runs/{run_id}/cancel", headers=bearing(token))
        assert answer.status_code == status
    assert answer.json()["status"] == "cancelled"


async def test_it_opens_nothing_else(caller: Caller) -> None:
    run_id, other = await caller.create("sim:1"), await caller.create("sim:1")
    token = (await minted(caller.http, run_id, access="read_and_cancel"))["token"]
    refused = {
        ("POST", f"/v1/runs/{run_id}/token"): 403,
        ("POST", f"/v1/runs/{run_id}/retry"): 403,
        ("POST", "/v1/runs"): 403,
        ("GET", "/v1/runs"): 403,
        ("GET", "/v1/usage"): 403,
        ("GET", "/v1/keys"): 403,
        ("GET", f"/v1/runs/{other}"): 404,
        ("GET", f"/v1/runs/{other}/events"): 404,
        ("POST", f"/v1/runs/{other}/cancel"): 404,
    }
    for (method, path), status in refused.items():
        json = body("sim:1") if path == "/v1/runs" and method == "POST" else {} if path.endswith("token") else None
        answer = await caller.http.request(method, path, json=json, headers=bearing(token))
        assert answer.status_code == status, (method, path, answer.text)
    stream = await caller.http.get(f"/v1/runs/{run_id}", params={"token": token}, headers={"Authorization": ""})
    assert stream.status_code == 401


async def test_who_may_read_the_run_may_have_a_token_for_it(stack: Stack, caller: Caller) -> None:
    run_id = await caller.create("sim:1")
    acme = {"Runstream-Tenant": caller.tenant}
    async with AsyncExitStack() as open_:

        async def asking(kind: Kind, tenant: str | None, user: str | None, **headers: str) -> httpx.AsyncClient:
            key = stack.create_key(tenant, user, kind)
            client = httpx.AsyncClient(base_url=stack.url, headers=bearing(key, **headers), timeout=DEADLINE)
            return await open_.enter_async_context(client)

        may = [
            await asking(Kind.SERVER, caller.tenant, None),
            await asking(Kind.SERVER, caller.tenant, None, **{"Runstream-User": caller.user}),
            await asking(Kind.OPERATOR, None, None, **acme),
        ]
        may_not = [
            await asking(Kind.USER, caller.tenant, "bob"),
            await asking(Kind.SERVER, caller.tenant, None, **{"Runstream-User": "bob"}),
            await asking(Kind.SERVER, "another", None),
            await asking(Kind.OPERATOR, None, None, **{"Runstream-Tenant": "another"}),
        ]
        for client in may:
            token = await minted(client, run_id)
            read = await caller.http.get(f"/v1/runs/{run_id}", headers=bearing(token["token"]))
            assert read.json()["id"] == run_id
        for client in may_not:
            assert (await client.post(f"/v1/runs/{run_id}/token", json={})).status_code == 404


async def test_nobody_gives_more_than_they_may(stack: Stack, caller: Caller) -> None:
    run_id = await caller.create("sim:1")
    for scope, access, lacks in (
        (Scope.RUNS_READ, "read_and_cancel", "runs:write"),
        (Scope.RUNS_WRITE, "read", "runs:read"),
    ):
        key = stack.create_key(caller.tenant, caller.user, scopes=[scope])
        answer = await caller.http.post(f"/v1/runs/{run_id}/token", json={"access": access}, headers=bearing(key))
        assert (answer.status_code, answer.json()["error"]["param"]) == (403, lacks)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"expires_in": 59}, "expires_in"),
        ({"expires_in": 24 * 3600 + 1}, "expires_in"),
        ({"expires_in": "1h"}, "expires_in"),
        ({"expires_in": None}, "expires_in"),
        ({"access": "write"}, "access"),
        ({"access": None}, "access"),
        ({"run_id": "run_1"}, "run_id"),
    ],
)
async def test_what_cannot_be_given_is_refused_with_what_to_change(
    caller: Caller, asked: dict[str, Any], param: str
) -> None:
    answer = await caller.http.post(f"/v1/runs/{new_id('run')}/token", json=asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


async def test_there_is_no_token_for_a_run_that_is_not_there(caller: Caller) -> None:
    for run_id in ("run_1", new_id("run"), new_id("key"), "%00"):
        assert (await caller.http.post(f"/v1/runs/{run_id}/token", json={})).status_code == 404
