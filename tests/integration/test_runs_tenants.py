"""Tenants are strangers, and nobody comes in without a key."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from uuid import uuid4

import httpx
import pytest
from redis.asyncio import Redis

from caller import DEADLINE, Caller, body
from runstream.domain.ids import new_id

ROUTES = [
    ("GET", "/v1/runs/{run_id}"),
    ("GET", "/v1/runs/{run_id}?wait=1"),
    ("GET", "/v1/runs/{run_id}/events"),
    ("POST", "/v1/runs/{run_id}/cancel"),
    ("POST", "/v1/runs/{run_id}/retry"),
    ("GET", "/v1/runs/{run_id}/attempts"),
]
ALL_ROUTES = [("GET", "/v1/runs"), ("POST", "/v1/runs"), *ROUTES]


@pytest.fixture
async def stranger(stack) -> AsyncIterator[Caller]:
    """A user of another tenant, who has the same name."""
    async with Caller.of(stack, f"tenant-{uuid4().hex}", "ada") as stranger:
        yield stranger


@pytest.mark.promise("P7")
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_what_is_anothers_is_answered_as_if_it_were_not_there(caller, stranger, unworked_url, method, path):
    running = await caller.create("hang:1")
    async with caller.at(unworked_url) as idle:
        queued = await idle.create()
    ended = await caller.create("sim:1")
    before = await caller.ended(ended)
    nowhere = await stranger.http.request(method, path.format(run_id=new_id("run")))
    for run_id in (running, queued, ended):
        async with asyncio.timeout(DEADLINE):
            answer = await stranger.http.request(method, path.format(run_id=run_id))
        assert answer.status_code == 404
        assert _said(answer) == _said(nowhere)
    assert await caller.get(ended) == before
    assert (await caller.get(queued))["status"] == "queued"
    assert (await caller.get(running))["cancel_requested_at"] is None
    await caller.cancel(running)


def _said(answer):
    return {**answer.json()["error"], "request_id": None}


@pytest.mark.promise("P7")
async def test_a_strangers_list_shows_nothing_of_ours_whatever_it_asks_for(caller, stranger):
    ours = await caller.create("sim:1", subject={"type": "ticket", "id": "1"})
    created = (await caller.ended(ours))["created_at"]
    asked = [
        {},
        {"user": "ada"},
        {"status": "completed"},
        {"subject_type": "ticket", "subject_id": "1"},
        {"created_after": created},
        {"cursor": ours},
        {"cursor": "run_" + "z" * 26},
    ]
    for query in asked:
        assert await stranger.list(**query) == []


@pytest.mark.promise("P7")
async def test_a_stranger_who_knows_our_idempotency_key_gets_a_run_of_its_own(caller, stranger):
    headers = {"Idempotency-Key": "guessed"}
    ours = (await caller.post(headers=headers)).json()["id"]
    theirs = await stranger.post("sim:6", headers=headers)
    assert theirs.status_code == 202
    assert theirs.json()["id"] != ours
    assert await stranger.list() == [theirs.json()["id"]]


@pytest.mark.promise("P7")
async def test_users_of_one_tenant_do_not_see_each_others_runs_and_their_server_sees_all(caller, stack):
    run_id = await caller.create("sim:1")
    async with Caller.of(stack, caller.tenant, "bob") as colleague, Caller.server(stack, caller.tenant) as server:
        assert (await colleague.http.get(f"/v1/runs/{run_id}")).status_code == 404
        assert await colleague.list() == await colleague.list(user="ada") == []
        assert (await server.ended(run_id))["user"] == "ada"
        assert await server.list() == [run_id]


@pytest.mark.parametrize(("method", "path"), ALL_ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer rs_wrong"},
        {"Authorization": "Basic {key}"},
        {"Authorization": "{key}"},
        {"Authorization": "Bearer {key}x"},
        {"Authorization": "Bearer {key} {key}"},
        {"X-Api-Key": "{key}"},
        {"Cookie": "key={key}"},
    ],
    ids=lambda headers: " ".join(headers.values()).replace("{key}", "KEY") + " ".join(headers) if headers else "none",
)
async def test_without_a_valid_bearer_key_nobody_comes_in(caller, stack, method, path, headers):
    path = path.format(run_id=new_id("run"))
    headers = {name: value.format(key=caller.key) for name, value in headers.items()}
    async with httpx.AsyncClient(base_url=stack.url, timeout=DEADLINE) as client:
        answer = await client.request(method, path, headers=headers, json=body() if method == "POST" else None)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthenticated"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert caller.key not in answer.text


@pytest.mark.parametrize("name", ["key", "api_key", "access_token", "token", "authorization"])
async def test_a_key_in_the_address_is_not_taken(caller, stack, name):
    async with httpx.AsyncClient(base_url=stack.url, timeout=DEADLINE) as client:
        answers = [
            await client.get("/v1/runs", params={name: caller.key}),
            await client.get(f"/v1/runs/{new_id('run')}/events", params={name: f"Bearer {caller.key}"}),
            await client.get(stack.url.replace("://", f"://{caller.key}@") + "/v1/runs"),
        ]
    assert [answer.status_code for answer in answers] == [401] * 3


async def test_a_revoked_key_is_refused_within_a_second_or_so(caller, stack):
    assert (await caller.http.get("/v1/runs")).status_code == 200
    (line,) = stack.command("keys", "list", "--tenant", caller.tenant).splitlines()
    assert caller.key not in line
    await asyncio.to_thread(stack.command, "keys", "revoke", line.split()[0])
    revoked = time.monotonic()
    while (await caller.http.get("/v1/runs")).status_code == 200:
        assert time.monotonic() - revoked < 5
    assert (await caller.post()).status_code == 401


async def test_a_key_that_the_command_made_opens_its_tenant(caller, stack):
    key = stack.command("keys", "create", "--tenant", caller.tenant, "--user", "grace").split()[-1]
    async with Caller(stack.url, key, caller.tenant, "grace") as grace, Caller.server(stack, caller.tenant) as server:
        run_id = await grace.create("sim:1")
        assert (await grace.get(run_id))["user"] == "grace"
        assert await server.list() == [run_id]


@pytest.mark.promise("P7")
async def test_what_a_run_says_is_under_names_that_nobody_can_guess_and_no_name_says_what_was_asked(caller, stack):
    run_id = await caller.create("hang:3", prompt="Between us", cache="read")
    async with aclosing(caller.follow(run_id)) as events, Redis.from_url(stack.redis_url) as redis:
        async for event in events:
            if event.type == "run.delta":
                break
        names = [name.decode() async for name in redis.scan_iter()]
        channels = [name.decode() for name in await redis.pubsub_channels()]
        streams = [name.decode() async for name in redis.scan_iter(_type="stream")]
    await caller.cancel(run_id)
    assert f"runstream:run:{run_id}" in {*names} & {*channels} & {*streams}
    for name in (*names, *channels):
        assert name.startswith(("runstream:", "arq:job:")), name
        assert not any(secret in name for secret in ("Between", caller.key)), name
    for name in {*streams, *channels} - {"runstream:terms"}:  # which says of nobody that something has changed
        assert re.fullmatch(r"runstream:(run|worker):[a-z]+_[0-9a-z]{26}(:.*)?", name), name
