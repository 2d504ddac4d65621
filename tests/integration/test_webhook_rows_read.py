"""However much is to be delivered, and was, a question reads about as many rows as it answers: see `test_rows_read`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from rows_read import rows_read
from runstream.domain.webhook import DeliveryStatus
from runstream.storage.database import connect
from runstream.storage.deliveries import DeliveryStore, Waiting
from runstream.storage.tenancy import Role
from runstream.storage.webhooks import WebhookStore

DEADLINE = 60
WEBHOOKS, DELIVERIES = 20, 40_000
IDLE = 2000
"""More webhooks, which nothing was ever delivered to."""
BUSY = "whk_0005"
"""A quarter of all is this one's; half of everything is pending, and one in a hundred has failed."""
FILL = f"""
    INSERT INTO tenants (id) VALUES ('acme');
    INSERT INTO webhooks (id, tenant, url, events, secrets)
        SELECT 'whk_' || lpad(n::text, 4, '0'), 'acme', 'http://x', '{{run.completed}}', '[]'
        FROM generate_series(0, {IDLE + WEBHOOKS - 1}) n;
    INSERT INTO webhook_deliveries (webhook_id, id, tenant, event, data, status, due_at, ended_at)
        SELECT CASE WHEN n % 4 = 0 THEN '{BUSY}' ELSE 'whk_' || lpad((n / 4 % {WEBHOOKS})::text, 4, '0') END,
               'evt_' || lpad(n::text, 26, '0'), 'acme', 'run.completed', '{{}}', status,
               now() - make_interval(secs => n), CASE WHEN status <> 'pending' THEN now() END
        FROM (SELECT n, CASE WHEN n / 16 % 2 = 0 THEN 'pending' WHEN n % 100 < 2 THEN 'failed'
                                                                                   ELSE 'delivered' END AS status
              FROM generate_series(0, {DELIVERIES - 1}) n) AS made;
    ANALYZE;
    DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET plan_cache_mode = force_generic_plan', current_database()); END $$
"""


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    connection = await asyncpg.connect(database_url, timeout=DEADLINE, command_timeout=DEADLINE)
    await connection.execute(FILL)
    await connection.close()
    engine = connect(database_url, pool_size=1, timeout=DEADLINE, role=Role.APPLICATION)
    yield engine
    await engine.dispose()


@pytest.fixture
async def sweep(engine: AsyncEngine, database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = connect(database_url, pool_size=1, timeout=DEADLINE, role=Role.SWEEP)
    yield engine
    await engine.dispose()


async def test_what_is_due_is_found_and_taken_by_what_is_taken(engine: AsyncEngine, sweep: AsyncEngine) -> None:
    store, page = DeliveryStore(engine, sweep, patience=1), 50
    due = [Waiting(webhook, "acme", due=True) for webhook in (BUSY, "whk_0007")]

    def listed(status: DeliveryStatus | None) -> Callable[[], Awaitable[Any]]:
        tenants = WebhookStore(engine)
        return lambda: tenants.deliveries("acme", BUSY, status=status, before=None, limit=page)

    questions: dict[str, tuple[AsyncEngine, Callable[[], Awaitable[Any]], int]] = {
        "waiting": (sweep, lambda: store.waiting(beyond="", limit=500), 5 * WEBHOOKS),
        "taken": (engine, lambda: store.take(due, lease=30), 100),
        "listed": (engine, listed(None), 2 * page),
        "failed": (engine, listed(DeliveryStatus.FAILED), 2 * page),
    }
    for name, (asked, question, most) in questions.items():
        assert await question(), name
        assert await rows_read(asked, question, "webhooks", "webhook_deliveries") <= most, name
