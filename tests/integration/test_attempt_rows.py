"""A run and its attempts change together or not at all."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.findings import Action, Finding, Where
from runstream.domain.ids import new_id
from runstream.domain.principal import Owner
from runstream.domain.run import Ending, Generation, KeptAnswer, Outcome, Request, Status
from runstream.domain.usage import ProviderCall, Usage
from runstream.sealing.master_keys import MasterKeys
from runstream.storage.content import content_with
from runstream.storage.left_behind import LeftBehind
from runstream.storage.runs import RunStore

DEADLINE = 60
TENANT = "acme"
CALLS = (
    ProviderCall("local", "m-0"),
    ProviderCall("local", "m-1", Usage(3, 4, 1), Decimal("0.1"), "configured"),
)
GENERATION = Generation("local", "m-1", "req-1", Usage(3, 4, 1), calls=CALLS)
ENDING = Ending(Status.COMPLETED, 1, [], "text", generation=GENERATION)


@pytest.fixture(params=["plain", "encrypted"])
def store(engine: AsyncEngine, request: pytest.FixtureRequest) -> RunStore:
    masters = MasterKeys([os.urandom(32)]) if request.param == "encrypted" else None
    return RunStore(engine, content=content_with(engine, masters))


@pytest.fixture
async def run_id(store: RunStore, database: asyncpg.Connection) -> str:
    await database.execute("insert into tenants (id) values ($1)", TENANT)
    request = Request("chat", "1", "fast", input={}, metadata={})
    made = await store.insert(
        new_id("run"), tenant=TENANT, user="ada", request=request, queue="default", max_attempts=3
    )
    return made.run.id


async def outcomes(store: RunStore, run_id: str) -> list[str]:
    return [attempt.outcome for attempt in await store.attempts(TENANT, run_id)]


async def status(store: RunStore, run_id: str) -> tuple[str, int]:
    run = await store.get(Owner(TENANT, None), run_id)
    assert run
    return run.status, run.attempt


@pytest.mark.promise("P3")
async def test_of_many_who_claim_a_run_one_begins_an_attempt(store: RunStore, run_id: str) -> None:
    claims = await asyncio.gather(*(store.claim(TENANT, run_id, f"worker-{number}") for number in range(8)))
    (claim,) = [claim for claim in claims if claim]
    (attempt,) = await store.attempts(TENANT, run_id)
    assert (claim.attempt, attempt.attempt, attempt.outcome) == (1, 1, "running")
    assert attempt.worker == f"worker-{claims.index(claim)}"


async def test_an_end_closes_its_attempt_with_what_it_came_to(store: RunStore, run_id: str) -> None:
    await store.claim(TENANT, run_id, "worker-1")
    assert await store.end(TENANT, run_id, ENDING, was=Status.RUNNING, attempt=1)
    (attempt,) = await store.attempts(TENANT, run_id)
    run = await store.get(Owner(TENANT, None), run_id)
    assert run
    assert (attempt.outcome, attempt.generation, run.usage) == (
        "completed",
        replace(GENERATION, calls=()),
        Usage(3, 4, 1),
    )
    assert attempt.ended_at == run.finished_at
    assert attempt.cost == run.cost == Decimal("0.1")


async def test_calls_enter_the_ledger_with_the_attempt_that_made_them_and_never_twice(
    store: RunStore, run_id: str, database: asyncpg.Connection
) -> None:
    async def entered() -> list[tuple[Any, ...]]:
        query = "select attempt, call, provider_model, output_tokens, cost from ledger order by attempt, call"
        return [tuple(row) for row in await database.fetch(query)]

    first = [(1, 1, "m-0", 0, None), (1, 2, "m-1", 4, Decimal("0.1"))]
    await store.claim(TENANT, run_id, "worker-1")
    assert await store.requeue(TENANT, run_id, 1, reason="provider", delay=0, generation=GENERATION)
    assert await entered() == first
    assert not await store.requeue(TENANT, run_id, 1, reason="provider", delay=0, generation=GENERATION)
    cancelled = Ending(Status.CANCELLED, 2, [], generation=GENERATION)
    assert await store.end(TENANT, run_id, cancelled, was=Status.QUEUED, attempt=1)
    assert await entered() == first
    run = await store.retry(TENANT, run_id, was=Status.CANCELLED, attempt=2, reason="retry")
    assert run
    assert run.cost == Decimal("0.1")
    claim = await store.claim(TENANT, run_id, "worker-2")
    assert claim
    assert (claim.attempt, claim.cost) == (3, Decimal("0.1"))
    assert await store.end(TENANT, run_id, replace(ENDING, attempt=3), was=Status.RUNNING, attempt=3)
    assert await entered() == [*first, (3, 1, "m-0", 0, None), (3, 2, "m-1", 4, Decimal("0.1"))]
    run = await store.get(Owner(TENANT, None), run_id)
    assert run
    assert run.cost == Decimal("0.2")
    await database.execute("delete from runs where id = $1", run_id)
    assert len(await entered()) == 4, "what was spent stays spent"


@pytest.mark.promise("P3")
async def test_who_lost_a_run_changes_neither_it_nor_an_attempt(store: RunStore, run_id: str) -> None:
    await store.claim(TENANT, run_id, "worker-1")
    assert await store.requeue(TENANT, run_id, 1, reason="worker_lost", delay=0, outcome=Outcome.LAPSED)
    await store.claim(TENANT, run_id, "worker-2")
    before = await store.attempts(TENANT, run_id)
    assert not await store.end(TENANT, run_id, ENDING, was=Status.RUNNING, attempt=1)
    assert not await store.requeue(TENANT, run_id, 1, reason="provider", delay=0)
    assert await store.attempts(TENANT, run_id) == before
    assert [attempt.outcome for attempt in before] == ["lapsed", "running"]
    assert await status(store, run_id) == ("running", 2)


async def test_an_attempt_whose_end_was_asked_for_is_not_given_up_for_another(store: RunStore, run_id: str) -> None:
    await store.claim(TENANT, run_id, "worker-1")
    await store.request_cancel(TENANT, run_id)
    assert not await store.requeue(TENANT, run_id, 1, reason="provider", delay=0)
    assert await outcomes(store, run_id) == ["running"]


async def test_an_end_that_is_not_the_attempts_own_closes_it_as_lapsed(store: RunStore, run_id: str) -> None:
    await store.claim(TENANT, run_id, "worker-1")
    assert await store.end(TENANT, run_id, Ending(Status.CANCELLED, 2, []), was=Status.RUNNING, attempt=1)
    assert await outcomes(store, run_id) == ["lapsed"]


async def test_a_run_is_flagged_by_the_findings_that_it_shows(store: RunStore, run_id: str) -> None:
    flagged = Finding("violence", Action.FLAG, Where.OUTPUT)
    normalized = Finding("nfc", Action.NORMALIZE, Where.INPUT, (0,))

    async def shown() -> tuple[bool, list[str]]:
        run = await store.get(Owner(TENANT, None), run_id)
        assert run
        return run.flagged, [finding["name"] for finding in run.findings or ()]

    await store.claim(TENANT, run_id, "worker-1")
    assert await store.requeue(TENANT, run_id, 1, reason="provider", delay=0, findings=[flagged])
    assert await shown() == (True, ["violence"])
    await store.claim(TENANT, run_id, "worker-2")
    assert await store.requeue(TENANT, run_id, 2, reason="worker_lost", delay=0)
    assert await shown() == (True, ["violence"])
    await store.claim(TENANT, run_id, "worker-3")
    ending = replace(ENDING, attempt=3, findings=[normalized])
    assert await store.end(TENANT, run_id, ending, was=Status.RUNNING, attempt=3)
    assert await shown() == (False, ["nfc"])


async def test_an_end_between_two_attempts_leaves_the_last_one_as_it_was(store: RunStore, run_id: str) -> None:
    await store.claim(TENANT, run_id, "worker-1")
    error = {"code": "provider_unavailable", "message": "It is away."}
    await store.requeue(TENANT, run_id, 1, reason=error["code"], delay=0, error=error)
    (before,) = await store.attempts(TENANT, run_id)
    assert (before.outcome, before.error) == ("retried", error)
    assert await store.end(TENANT, run_id, Ending(Status.CANCELLED, 2, []), was=Status.QUEUED, attempt=1)
    assert await store.attempts(TENANT, run_id) == [before]


@pytest.mark.parametrize("was", [Status.FAILED, Status.CANCELLED])
async def test_of_many_who_try_a_run_again_one_does(store: RunStore, run_id: str, was: Status) -> None:
    await store.claim(TENANT, run_id, "worker-1")
    await store.end(
        TENANT,
        run_id,
        Ending(was, 1, [], "text", error={"code": "x", "message": "y"}),
        was=Status.RUNNING,
        attempt=1,
    )
    asked: list[Any] = [store.retry(TENANT, run_id, was=was, attempt=1, reason="retry") for _ in range(8)]
    assert len([run for run in await asyncio.gather(*asked) if run]) == 1
    assert await status(store, run_id) == ("queued", 1)
    assert not await store.retry(TENANT, run_id, was=was, attempt=1, reason="retry")
    claim = await store.claim(TENANT, run_id, "worker-2")
    assert claim
    assert (claim.attempt, claim.restart_reason) == (2, "retry")
    assert await outcomes(store, run_id) == [was, "running"]


@pytest.mark.promise("P3")
async def test_what_an_answer_is_read_on_by_is_kept_by_its_own_worker_alone_and_goes_over_to_the_next_attempt(
    store: RunStore, behind: LeftBehind, run_id: str
) -> None:
    answer, other = KeptAnswer("local", "m-1", "resp_1"), KeptAnswer("local", "m-1", "resp_2")
    await store.claim(TENANT, run_id, "worker-1")
    assert not await store.note_answer(TENANT, run_id, 1, "worker-2", other)
    assert await store.note_answer(TENANT, run_id, 1, "worker-1", answer)
    owed = replace(answer, owed=CALLS[1])
    left = Generation("local", "m-1", goes_on=owed)
    assert await store.requeue(
        TENANT, run_id, 1, reason="worker_lost", delay=0, outcome=Outcome.LAPSED, generation=left
    )
    assert not await store.note_answer(TENANT, run_id, 1, "worker-1", other)
    assert await behind.unread(9) == []
    claim = await store.claim(TENANT, run_id, "worker-2")
    assert claim
    assert claim.resume == owed
    assert await behind.unread(9) == []
    assert await store.requeue(
        TENANT, run_id, 2, reason="worker_lost", delay=0, outcome=Outcome.LAPSED, generation=left
    )
    claim = await store.claim(TENANT, run_id, "worker-3")
    assert claim
    assert claim.resume == owed
    assert await store.end(TENANT, run_id, replace(ENDING, attempt=3), was=Status.RUNNING, attempt=3)
    assert await behind.unread(9) == []


async def test_an_answer_that_waits_to_be_read_on_is_paid_for_with_its_runs_end_and_told_once(
    store: RunStore, behind: LeftBehind, run_id: str, database: asyncpg.Connection
) -> None:
    answer = KeptAnswer("local", "m-1", "resp_1", owed=CALLS[1])
    left = Generation("local", "m-1", calls=CALLS[:1], goes_on=answer)
    await store.claim(TENANT, run_id, "worker-1")
    assert await store.requeue(TENANT, run_id, 1, reason="worker_stopped", delay=0, generation=left)
    assert await database.fetchval("select count(*) from ledger") == 1
    done = await store.end(TENANT, run_id, Ending(Status.CANCELLED, 2, []), was=Status.QUEUED, attempt=1)
    assert done
    assert (done.since, done.through, done.tokens) == (1, 2, 7), "limits count it, after what attempt 1 came to"
    entered = await database.fetch("select attempt, call, cost from ledger order by call")
    assert [tuple(row) for row in entered] == [(1, 1, None), (1, 2, Decimal("0.1"))]
    run = await store.get(Owner(TENANT, None), run_id)
    assert run
    assert run.cost == Decimal("0.1")
    assert await behind.unread(9) == [replace(answer, owed=None)]
    assert await behind.unread(9) == []


async def test_what_a_person_asks_for_again_is_not_read_on(store: RunStore, run_id: str) -> None:
    left = Generation("local", "m-1", goes_on=KeptAnswer("local", "m-1", "resp_1", owed=CALLS[1]))
    await store.claim(TENANT, run_id, "worker-1")
    assert await store.requeue(TENANT, run_id, 1, reason="worker_stopped", delay=0, generation=left)
    assert await store.end(TENANT, run_id, Ending(Status.CANCELLED, 2, []), was=Status.QUEUED, attempt=1)
    assert await store.retry(TENANT, run_id, was=Status.CANCELLED, attempt=2, reason="retry")
    claim = await store.claim(TENANT, run_id, "worker-2")
    assert claim
    assert claim.resume is None


async def test_attempts_go_with_their_run(store: RunStore, run_id: str, database: asyncpg.Connection) -> None:
    await store.claim(TENANT, run_id, "worker-1")
    await database.execute("delete from runs where id = $1", run_id)
    assert await database.fetchval("select count(*) from attempts") == 0


async def test_attempts_are_their_tenants_alone(store: RunStore, run_id: str) -> None:
    await store.claim(TENANT, run_id, "worker-1")
    assert await store.attempts("another", run_id) == []
