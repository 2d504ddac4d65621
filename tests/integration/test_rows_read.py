"""However many runs there are, a question reads about as many rows as it answers.

Postgres plans a statement that is sent often for all parameters at once, if that looks cheap to it: a guess. Here it
always does so, and no plan may depend on a parameter that could be another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count, product
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from rows_read import rows_read
from runstream.domain.principal import Owner
from runstream.domain.run import Ending, Request, Status
from runstream.storage.database import connect
from runstream.storage.leases import LeaseStore
from runstream.storage.left_behind import LeftBehind
from runstream.storage.lists import AllRuns, Filters, RunLists
from runstream.storage.runs import RunStore
from runstream.storage.tenancy import Role

TABLES = ("runs", "attempts")
DEADLINE = 120
RUNS, QUEUED, RUNNING = 100_000, 100, 100
TENANT, USER, SUBJECT, KEY = "tenant-0", "user-0", "subject-0", "key-0"
"""Of the runs a fifth is this tenant's, of those a quarter this user's; the others are shared by 500 tenants."""
OTHER = "tenant-1"
"""Whose runs are at work."""
FILL = f"""
    INSERT INTO tenants (id) SELECT 'tenant-' || n FROM generate_series(0, 500) n;
    INSERT INTO workers (id, host, lease_until)
        SELECT 'worker-' || n, 'host', now() + interval '1 hour' FROM generate_series(1, 9) n;
    INSERT INTO runs (id, tenant, user_id, feature, prompt_version, input, model, queue, status, attempt, max_attempts,
                      worker, subject_type, subject_id, idempotency_key, available_at, enqueued_at, finished_at)
        SELECT 'run_' || lpad(n::text, 26, '0'), 'tenant-' || CASE WHEN n % 5 = 0 THEN 0 ELSE n % 500 END,
               'user-' || n / 5 % 4, 'chat', '1', '{{}}', 'fast', 'default', status, 1, 3,
               CASE WHEN status = 'running' THEN 'worker-' || 1 + n / 1000 % 9 END,
               'ticket', 'subject-' || n / 5 % 4, 'key-' || n, now(), now(),
               CASE WHEN status NOT IN ('queued', 'running') THEN now() END
        FROM (SELECT n, CASE n % 1000 WHEN 0 THEN 'queued' WHEN 1 THEN 'running'
                                      ELSE CASE n / 5 % 4 WHEN 3 THEN 'failed' ELSE 'completed' END END AS status
              FROM generate_series(0, {RUNS - 1}) n) AS made;
    INSERT INTO attempts (run_id, attempt, tenant, worker, outcome, ended_at)
        SELECT id, attempt, tenant, coalesce(worker, 'worker-1'), status, finished_at FROM runs
        WHERE status <> 'queued';
    ANALYZE;
"""
PLAN_ONCE = """
    DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET plan_cache_mode = force_generic_plan', current_database()); END $$
"""


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    connection = await asyncpg.connect(database_url, timeout=DEADLINE, command_timeout=DEADLINE)
    await connection.execute(FILL)
    await connection.execute(PLAN_ONCE)
    await connection.close()
    engine = connect(database_url, pool_size=1, timeout=DEADLINE, role=Role.APPLICATION)
    yield engine
    await engine.dispose()


@pytest.fixture
async def sweep(engine: AsyncEngine, database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = connect(database_url, pool_size=1, timeout=DEADLINE, role=Role.SWEEP)
    yield engine
    await engine.dispose()


async def test_a_page_reads_about_the_runs_that_it_shows(engine: AsyncEngine) -> None:
    lists, size = RunLists(engine), 50

    def page(filters: Filters, before: str | None) -> Callable[[], Awaitable[list[Any]]]:
        return lambda: lists.page(Owner(TENANT, None), filters, before=before, limit=size)

    for filters in (
        Filters(),
        Filters(status=Status.FAILED),
        Filters(user=USER),
        Filters(subject_type="ticket", subject_id=SUBJECT),
    ):
        for before in (None, run_id(RUNS // 2)):
            assert len(await page(filters, before)()) == size
            assert await rows_read(engine, page(filters, before), *TABLES) < 10 * size, filters


async def test_each_step_of_a_run_reads_that_run(engine: AsyncEngine) -> None:
    store = RunStore(engine)
    claimed, running, failed = count(0, 1000), count(1, 1000), count(15, 20)
    ending, again = Ending(Status.COMPLETED, 1, []), {"was": Status.FAILED, "attempt": 1, "reason": "retry"}
    request = Request("chat", "1", "fast", input={}, metadata={})
    made: dict[str, Any] = {"tenant": TENANT, "user": USER, "request": request, "queue": "default", "max_attempts": 3}
    steps: dict[str, Callable[[], Awaitable[Any]]] = {
        "asked again": lambda: store.insert(run_id(RUNS), **made, idempotency_key=KEY),
        "got": lambda: store.get(Owner(TENANT, None), run_id(0)),
        "watched": lambda: store.standing(Owner(TENANT, None), run_id(0)),
        "claimed": lambda: store.claim(TENANT, run_id(next(claimed)), "worker-1"),
        "cancelled": lambda: store.request_cancel(TENANT, run_id(0)),
        "ended": lambda: store.end(OTHER, run_id(next(running)), ending, was=Status.RUNNING, attempt=1),
        "queued again": lambda: store.requeue(OTHER, run_id(next(running)), 1, reason="provider", delay=0),
        "tried again": lambda: store.retry(TENANT, run_id(next(failed)), **again),
        "looked through": lambda: store.attempts(TENANT, run_id(5)),
    }
    for name, step in steps.items():
        assert await step(), name
        assert await rows_read(engine, step, *TABLES) <= 2, name


async def test_an_operators_page_reads_what_was_asked_for_since(sweep: AsyncEngine) -> None:
    every, recent, size = AllRuns(sweep), 2000, 50
    since = run_id(RUNS - recent)
    for tenant, status, before in product((None, TENANT), (None, Status.FAILED), (None, run_id(RUNS - 100))):

        async def page(tenant: str | None = tenant, status: Status | None = status, before: str | None = before) -> Any:
            return await every.newest(tenant=tenant, status=status, since=since, before=before, limit=size)

        assert len(await page()) == size, (tenant, status, before)
        assert await rows_read(sweep, page, *TABLES) <= recent, (tenant, status, before)


async def test_the_sweep_and_the_metrics_read_what_has_not_ended(sweep: AsyncEngine) -> None:
    left, every, leases = LeftBehind(sweep), AllRuns(sweep), LeaseStore(sweep)
    assert await every.counts() == {"queued": QUEUED, "running": RUNNING}
    questions: dict[str, Callable[[], Awaitable[Any]]] = {
        "lapsed": lambda: left.lapsed(100),
        "waiting": lambda: left.tenants_waiting(beyond="", limit=100),
        "stranded": lambda: left.stranded([TENANT], overdue=3600, limit=100),
        "unread": lambda: left.unread(100),
        "counts": every.counts,
        "queued": lambda: every.queued("default"),
        "forget": lambda: leases.forget_dead(3600),
        "renew": lambda: leases.renew("worker-1", "host", 3600),
    }
    for name, question in questions.items():
        assert await rows_read(sweep, question, *TABLES) <= QUEUED + RUNNING, name


def run_id(number: int) -> str:
    return f"run_{number:026}"
