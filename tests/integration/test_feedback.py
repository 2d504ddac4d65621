"""What became of a run's answer, as who read it tells, and what that adds up to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import pytest

from caller import Caller
from reliability import rows

DIMENSIONS = ("feature", "prompt_version", "model", "day")
VERDICTS = ("accepted", "edited", "discarded")
KEPT = "select * from feedback where tenant = $1 order by run_id"


@pytest.fixture
async def server(stack, caller) -> AsyncIterator[Caller]:
    """The backend of the caller's tenant."""
    async with Caller.server(stack, caller.tenant) as server:
        yield server


async def tell(caller: Caller, run_id: str, event: str, **more: Any) -> dict[str, Any]:
    answer = await caller.http.post(f"/v1/runs/{run_id}/feedback", json={"event": event, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def counted(caller: Caller, **asked: str) -> list[dict[str, Any]]:
    return (await caller.http.get("/v1/feedback", params=asked)).raise_for_status().json()["data"]


async def test_the_last_verdict_stands_and_the_answer_stays_as_it_was(caller):
    run = await caller.ended(await caller.create("sim:3"))
    assert run["feedback"] is None
    steps = [
        ({"event": "shown"}, "shown", (None, None, None, None)),
        ({"event": "edited", "text": "Mine.", "rating": -1}, "edited", ("edited", "Mine.", -1, None)),
        ({"event": "shown", "comment": "Hm."}, "edited", ("edited", "Mine.", -1, "Hm.")),
        ({"event": "accepted", "rating": 1}, "accepted", ("accepted", None, 1, "Hm.")),
        ({"event": "discarded"}, "discarded", ("discarded", None, 1, "Hm.")),
    ]
    for told, state, known in steps:
        kept = await tell(caller, run["id"], **told)
        assert tuple(kept[name] for name in ("verdict", "text", "rating", "comment")) == known
        assert (kept["run"], kept["user"]) == (run["id"], "ada")
        assert (await caller.http.get(f"/v1/runs/{run['id']}/feedback")).json() == kept
        assert await caller.get(run["id"]) == {**run, "feedback": state}
    assert kept["shown_at"] == kept["created_at"] < kept["changed_at"]


async def test_what_is_told_twice_counts_once(caller, server, stack):
    run_id = await caller.create("sim:1")
    for who in (caller, caller, server):
        await tell(who, run_id, "accepted", rating=1)
    (one,) = await counted(caller)
    assert one == {
        **{"runs": 1, "shown": 0, "accepted": 1, "edited": 0, "discarded": 0},
        **{"acceptance_rate": 1.0, "rated": 1, "mean_rating": 1.0},
    }
    assert [row["user_id"] for row in await rows(stack, KEPT, caller.tenant)] == ["ada"]


async def test_of_verdicts_that_come_at_once_one_stands_in_both_places(caller):
    run_id = await caller.create("sim:1")
    told = [{"event": event, **({"text": "Mine."} if event == "edited" else {})} for event in VERDICTS * 5]
    await asyncio.gather(*(tell(caller, run_id, **each) for each in told))
    kept = (await caller.http.get(f"/v1/runs/{run_id}/feedback")).json()
    assert (await caller.get(run_id))["feedback"] == kept["verdict"] in VERDICTS
    assert (kept["text"] is not None) == (kept["verdict"] == "edited")


@pytest.mark.parametrize(
    ("told", "param"),
    [
        ({"event": "edited"}, "text"),
        ({"event": "accepted", "text": "Mine."}, "text"),
        ({"event": "loved"}, "event"),
        ({"event": "accepted", "rating": 2}, "rating"),
        ({"event": "accepted", "rating": 0.5}, "rating"),
        ({"event": "accepted", "comment": "x" * 4001}, "comment"),
        ({"event": "edited", "text": "x" * 200_001}, "text"),
        ({"event": "accepted", "stars": 5}, "stars"),
        ({}, "event"),
    ],
)
async def test_what_cannot_be_told_is_refused_by_name(caller, told, param):
    run_id = await caller.create("sim:1")
    answer = await caller.http.post(f"/v1/runs/{run_id}/feedback", json=told)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)
    assert (await caller.get(run_id))["feedback"] is None


async def test_every_way_to_group_feedback_adds_up_to_what_was_told(caller, server, stack):
    async with Caller.of(stack, caller.tenant, "bob") as bob, Caller.of(stack, f"{caller.tenant}-2", "eve") as eve:
        for who in (caller, bob, eve):
            for number in range(6):
                run_id = await who.create(f"sim:{number % 2 + 1}")
                await tell(who, run_id, "shown")
                verdict = (*VERDICTS, None)[number % 4]
                if verdict:
                    more = {"text": "Mine."} if verdict == "edited" else {}
                    await tell(who, run_id, verdict, rating=number % 3 - 1, **more)
                if number == 5:
                    await rows(
                        stack,
                        "update feedback set feature = 'other', prompt_version = '2', shown_at = null,"
                        " created_at = created_at - interval '1 day' where run_id = $1",
                        run_id,
                    )
    kept = [dict(row) for row in await rows(stack, KEPT, caller.tenant)]
    assert len(kept) == 12
    for row in kept:
        row["day"] = row["created_at"].astimezone(UTC).date().isoformat()
    for size in range(len(DIMENSIONS) + 1):
        for group in combinations(DIMENSIONS, size):
            told = await counted(server, group_by=",".join(group))
            keys = [tuple(each[name] for name in group) for each in told]
            assert keys == sorted({tuple(row[name] for name in group) for row in kept})
            for key, each in zip(keys, told, strict=True):
                assert set(each) == {*group, *whole([])}
                mine = [row for row in kept if tuple(row[name] for name in group) == key]
                assert {name: each[name] for name in whole([])} == whole(mine)
    assert [each["runs"] for each in await counted(caller)] == [6]
    since = (datetime.now(UTC) - timedelta(hours=12)).isoformat()
    assert [each["runs"] for each in await counted(server, **{"from": since})] == [10]
    assert [each["runs"] for each in await counted(server, to=since)] == [2]


def whole(kept: list[dict[str, Any]]) -> dict[str, Any]:
    verdicts = {verdict: sum(row["verdict"] == verdict for row in kept) for verdict in VERDICTS}
    ratings = [row["rating"] for row in kept if row["rating"] is not None]
    judged = sum(verdicts.values())
    return {
        **{"runs": len(kept), "shown": sum(row["shown_at"] is not None for row in kept), **verdicts},
        "acceptance_rate": (judged - verdicts["discarded"]) / judged if judged else None,
        "rated": len(ratings),
        "mean_rating": pytest.approx(sum(ratings) / len(ratings)) if ratings else None,
    }


async def test_feedback_goes_with_its_run(caller, stack):
    run = await caller.ended(await caller.create("sim:1"))
    await tell(caller, run["id"], "edited", text="Mine.")
    await rows(stack, "delete from ledger where tenant = $1", caller.tenant)
    await rows(stack, "delete from runs where tenant = $1", caller.tenant)
    assert await rows(stack, KEPT, caller.tenant) == []
