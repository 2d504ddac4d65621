"""A tenant's runs are found again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from caller import Caller


async def every_page(caller, **query):
    """The ids on all pages, in their order."""
    seen = []
    while True:
        page = (await caller.http.get("/v1/runs", params=query)).raise_for_status().json()
        seen += [run["id"] for run in page["data"]]
        assert len(seen) == len(set(seen)), "a run came twice"
        if page["next"] is None:
            return seen
        assert page["next"] != query.get("cursor"), "this page leads to itself"
        query["cursor"] = page["next"]


async def test_runs_are_listed_newest_first_without_their_output(caller):
    runs = [await caller.create("sim:1") for _ in range(3)]
    await caller.ended(runs[-1])
    page = (await caller.http.get("/v1/runs")).json()
    assert [run["id"] for run in page["data"]] == runs[::-1]
    assert page["next"] is None
    assert all(run["output"] is None for run in page["data"])


async def test_a_tenant_without_runs_has_an_empty_page(caller):
    assert (await caller.http.get("/v1/runs")).json() == {"data": [], "next": None}


@pytest.mark.parametrize("limit", [1, 3, 7, 8])
async def test_a_page_ends_where_the_next_one_begins(unworked, limit):
    runs = [await unworked.create() for _ in range(7)]
    assert await every_page(unworked, limit=limit) == runs[::-1]


async def test_a_walk_meets_each_run_once_while_new_ones_arrive(unworked):
    async def arrive(number):
        for _ in range(number):
            await unworked.create()

    before = list(await asyncio.gather(*(unworked.create() for _ in range(40))))
    arriving = asyncio.gather(*(arrive(15) for _ in range(3)))
    walks = []
    while not arriving.done():
        walks.append(await every_page(unworked, limit=3))
    await arriving
    walks.append(await every_page(unworked, limit=3))
    assert len(walks[-1]) == 85
    assert len(walks[0]) < 85, "no run arrived during the walks"
    for walk in walks:
        assert walk == sorted(set(walk), reverse=True)
        assert set(before) <= set(walk)


async def test_runs_are_filtered_by_status(caller, stack, unworked_url):
    completed = await caller.create("sim:1")
    failed = await caller.create("status:400")
    running = await caller.create("hang:1")
    async with caller.at(unworked_url) as idle:
        queued = await idle.create()
        cancelled = (await idle.cancel(await idle.create()))["id"]
    await caller.ended(completed)
    await caller.ended(failed)
    await _first_event(caller, running)
    found = {status: await caller.list(status=status) for status in ("completed", "failed", "queued", "cancelled")}
    assert found == {"completed": [completed], "failed": [failed], "queued": [queued], "cancelled": [cancelled]}
    assert await caller.list(status="running") == [running]
    await caller.cancel(running)
    await caller.ended(running)
    assert await caller.list(status="running") == []
    assert await caller.list(status="cancelled") == [cancelled, running]


async def _first_event(caller, run_id):
    async for event in caller.follow(run_id):
        return event
    return None


async def test_runs_are_filtered_by_user(unworked, stack):
    url = str(unworked.http.base_url)
    async with (
        Caller.of(stack, unworked.tenant, "bob", url=url) as bob,
        Caller.server(stack, unworked.tenant, url=url) as server,
    ):
        hers, his = await unworked.create(), await bob.create()
        assert await server.list(user="bob") == [his]
        assert await server.list(user="ada") == [hers]
        assert await server.list() == [his, hers]
        assert await server.list(user="eve") == []


async def test_runs_are_filtered_by_subject(unworked):
    first = await unworked.create(subject={"type": "ticket", "id": "1"})
    second = await unworked.create(subject={"type": "ticket", "id": "2"})
    other = await unworked.create(subject={"type": "order", "id": "1"})
    await unworked.create()
    assert await unworked.list(subject_type="ticket") == [second, first]
    assert await unworked.list(subject_id="1") == [other, first]
    assert await unworked.list(subject_type="ticket", subject_id="1") == [first]
    assert await unworked.list(subject_type="ticket", subject_id="3") == []


async def test_runs_are_filtered_by_feature(unworked):
    run = await unworked.create()
    assert await unworked.list(feature="chat") == [run]
    assert await unworked.list(feature="summary") == []


async def test_runs_are_filtered_by_the_time_they_were_made_at(unworked):
    runs = [await unworked.create() for _ in range(3)]
    middle = (await unworked.get(runs[1]))["created_at"]
    assert await unworked.list(created_after=middle) == [runs[2], runs[1]]
    assert await unworked.list(created_before=middle) == [runs[0]]
    elsewhere = datetime.fromisoformat(middle).astimezone(UTC) + timedelta(hours=1)
    assert await unworked.list(created_after=elsewhere.isoformat()) == []
    assert await unworked.list(created_after=middle, created_before=elsewhere.isoformat()) == [runs[2], runs[1]]


async def test_filters_and_pages_go_together(unworked):
    wanted = []
    for number in range(6):
        run = await unworked.create(subject={"type": "even" if number % 2 == 0 else "odd", "id": "x"})
        if number % 2 == 0:
            wanted.append(run)
    assert await every_page(unworked, limit=2, subject_type="even", status="queued", user="ada") == wanted[::-1]


async def test_a_list_of_failed_runs_says_why_each_one_failed(caller):
    refused, broken = await caller.create("status:400"), await caller.create("malformed:1")
    ended = {run_id: await caller.ended(run_id) for run_id in (refused, broken)}
    await caller.ended(await caller.create("sim:1"))
    listed = (await caller.http.get("/v1/runs", params={"status": "failed"})).json()["data"]
    assert {run["id"]: run["error"] for run in listed} == {run_id: run["error"] for run_id, run in ended.items()}
    assert {run["error"]["code"] for run in listed} == {"provider_refused", "provider_protocol_error"}
    assert all(run["error"]["message"] for run in listed)
