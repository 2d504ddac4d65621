"""Limits become others while runs are being made: each of two API processes learns of it at its own time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.counters.book import Book
from runstream.domain.errors import LimitReached
from runstream.domain.ids import new_id
from runstream.domain.limits import Party, Scope
from runstream.domain.run import Ending, Generation, Request, Status
from runstream.domain.terms import Allowance, Source, TenantTerms, Terms
from runstream.domain.usage import ProviderCall, Usage
from runstream.gateway.admission import Admission, Wanted
from runstream.gateway.limits import Limits
from runstream.redis_script import Scripts
from runstream.runs.finish import count
from runstream.storage.budgets import BudgetStore
from runstream.storage.runs import RunStore

DEADLINE = 60
TENANT = "acme"
WORKER = "wrk_1"
MOST = 5
BEFORE: list[dict[str, Any]] = [{}, {Scope.TENANT: {"requests_per_minute": 1000}}]
REQUEST = Request("chat", "1", "sim:5", {"messages": []}, {})


def limited(stamp: int, **limits: int) -> Terms:
    allowed = (Source.PLAN, Allowance({"tenant": limits}))
    return Terms(stamp, {TENANT: TenantTerms(allowances=(allowed,), stamp=(stamp,))})


class Processes:
    """Two, as far as limits are concerned; `terms` are what each knows."""

    def __init__(self, engine: AsyncEngine, book: Book, configured: Mapping[Scope, Any]) -> None:
        self.terms = [Terms(), Terms()]
        self.store = RunStore(engine)
        self.book = book
        self.admissions = [
            Admission(
                Limits(configured, terms=lambda number=number: self.terms[number]),
                book,
                BudgetStore(engine),
                price=lambda wanted, usage: None,
                reserved_output=100,
            )
            for number in range(2)
        ]

    async def make(self, number: int) -> str | None:
        """A run's id; None where it was refused."""
        admission, run_id = self.admissions[number], new_id("run")
        wanted = Wanted(run_id, Party(TENANT, "ada", "chat"), "sim:5", {"messages": []})
        while True:
            try:
                hold = await admission.reserve(wanted)
            except LimitReached:
                return None
            async with admission.unreserved(hold, TENANT):
                if await self.insert(run_id, hold):
                    return run_id
            await admission.stale(hold)

    async def insert(self, run_id: str, hold: Any = None) -> Any:
        made = {"request": REQUEST, "queue": "q", "max_attempts": 1, "hold": hold}
        return await self.store.insert(run_id, tenant=TENANT, user="ada", **made)

    async def used(self, number: int, name: str) -> tuple[int, int]:
        """What is spent and what is reserved."""
        _, uses = await self.admissions[number].uses(TENANT, "ada", ["chat"])
        (use,) = [use for use in uses if use.limit.name == name]
        return use.spent, use.reserved


@asynccontextmanager
async def two_processes(
    engine: AsyncEngine, redis_url: str, configured: Mapping[Scope, Any]
) -> AsyncIterator[Processes]:
    async with Redis.from_url(redis_url) as redis, aclosing(Scripts(redis, timeout=DEADLINE)) as scripts:
        async with asyncio.timeout(DEADLINE):
            yield Processes(engine, Book(redis, scripts), configured)


@pytest.fixture(autouse=True)
async def tenant(database: asyncpg.Connection) -> None:
    await database.execute("insert into tenants (id, changed_in) values ($1, 1)", TENANT)


@pytest.mark.promise("P8")
@pytest.mark.parametrize("configured", BEFORE, ids=["no limit before", "a limit of requests before"])
async def test_what_a_process_let_through_before_it_knew_counts_as_soon_as_it_knows(
    engine: AsyncEngine, redis_url: str, database: asyncpg.Connection, configured: Mapping[Scope, Any]
) -> None:
    async with two_processes(engine, redis_url, configured) as two:
        assert [await two.make(number) for number in (0, 1)].count(None) == 0
        two.terms[0] = limited(1, concurrent_runs=MOST)
        assert await two.make(0)
        assert await two.make(1)  # it knows of no limit yet
        two.terms[1] = limited(1, concurrent_runs=MOST)
        made = [await two.make(number) for number in (1, 0, 1, 0)]
        assert [each is not None for each in made] == [True, False, False, False]
    assert await database.fetchval("select count(*) from runs") == MOST


@pytest.mark.promise("P8")
async def test_counters_are_not_read_before_what_is_being_written_without_a_limit_is_there(
    engine: AsyncEngine, redis_url: str, database: asyncpg.Connection
) -> None:
    async with two_processes(engine, redis_url, {}) as two:
        async with AsyncExitStack() as writing:
            for _ in range(2):
                await writing.enter_async_context(two.admissions[0].unreserved(None, TENANT))
            two.terms[0] = limited(1, concurrent_runs=MOST)
            asked = [asyncio.create_task(two.make(0)) for _ in range(2 * MOST)]
            done, _ = await asyncio.wait(asked, timeout=0.2)
            assert not done
            for _ in range(2):
                await two.insert(new_id("run"))
        await asyncio.gather(*asked)
    assert await database.fetchval("select count(*) from runs") == MOST


@pytest.mark.promise("P8")
async def test_what_a_process_that_is_asked_no_more_let_through_counts_once_the_change_is_in_effect_everywhere(
    engine: AsyncEngine, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("runstream.gateway.admission.time.monotonic", lambda: now)
    async with two_processes(engine, redis_url, {}) as two:
        two.terms[0] = limited(1, concurrent_runs=MOST)
        assert await two.make(0)
        assert await two.make(1)
        assert await two.used(0, "tenant.concurrent_runs") == (0, 1)
        now += 3.0
        assert await two.used(0, "tenant.concurrent_runs") == (0, 2)


@pytest.mark.promise("P8")
async def test_what_a_run_spends_that_was_made_without_a_limit_counts_against_one_that_came_since(
    engine: AsyncEngine, redis_url: str
) -> None:
    async with two_processes(engine, redis_url, {}) as two:
        run_id = await two.make(0)
        assert run_id
        assert await two.store.claim(TENANT, run_id, WORKER)
        two.terms[0] = limited(1, tokens_per_day=1000)
        assert await two.used(0, "tenant.tokens_per_day") == (0, 0)
        spent = Generation(calls=[ProviderCall("local", "sim:5", Usage(300, 400))])
        ending = Ending(Status.COMPLETED, 1, [], generation=spent)
        done = await two.store.end(TENANT, run_id, ending, was=Status.RUNNING, attempt=1)
        assert done
        await count(two.book, done)
        assert await two.used(0, "tenant.tokens_per_day") == (700, 0)


@pytest.mark.promise("P8")
async def test_a_smaller_limit_holds_from_then_on_and_a_greater_one_too(engine: AsyncEngine, redis_url: str) -> None:
    async with two_processes(engine, redis_url, {}) as two:
        for stamp, most, free in ((1, MOST, MOST), (2, MOST - 2, 0), (3, MOST + 1, 1)):
            two.terms[:] = [limited(stamp, concurrent_runs=most)] * 2
            made = await asyncio.gather(*(two.make(number % 2) for number in range(2 * MOST)))
            assert sum(each is not None for each in made) == free
