"""However many entries the audit log has, a page of it reads about as many as it shows: see `test_rows_read`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from rows_read import rows_read
from runstream.domain.audit import Action
from runstream.domain.ids import new_id
from runstream.storage.audit import AuditFilters, AuditStore
from runstream.storage.database import connect

DEADLINE = 60
ENTRIES, PAGE = 20_000, 20


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    connection = await asyncpg.connect(database_url, timeout=DEADLINE, command_timeout=DEADLINE)
    times = [datetime.now(UTC) - timedelta(minutes=ENTRIES - n) for n in range(ENTRIES)]
    ids = [new_id("aud", at.timestamp()) for at in times]
    await connection.execute(
        """
        INSERT INTO audit
            (id, at, tenant, principal_kind, principal_id, action, target_type, target_id, request_id, details)
        SELECT id, at, 'tenant-' || n % 4, 'server', 'key_' || n % 40,
            CASE WHEN n % 500 = 0 THEN 'key.revoked' ELSE 'run.read' END, 'run', 'run_' || n % 500, 'req', '{}'
        FROM unnest($1::text[], $2::timestamptz[]) WITH ORDINALITY AS made (id, at, n)
        """,
        *(ids, times),
    )
    await connection.execute("ANALYZE audit")
    await connection.execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET plan_cache_mode = force_generic_plan', current_database());"
        " END $$"
    )
    await connection.close()
    engine = connect(database_url, pool_size=1, timeout=DEADLINE)
    yield engine
    await engine.dispose()


async def test_a_page_reads_what_it_shows_whatever_it_is_asked_for(engine: AsyncEngine) -> None:
    store = AuditStore(engine, engine)
    middle = datetime.now(UTC) - timedelta(minutes=ENTRIES // 2)
    asked = [
        AuditFilters(**whose, **what)
        for whose in ({}, {"tenant": "tenant-0"})
        for what in (
            {},
            {"action": Action.KEY_REVOKED},
            {"target": "run_16"},
            {"principal": "key_4"},
            {"until": middle},
            {"since": middle, "until": middle + timedelta(hours=1)},
            {"action": Action.RUN_READ, "until": middle},
        )
    ]
    for filters in asked:
        found = []

        async def page(filters: AuditFilters = filters, found: list = found) -> None:
            found[:] = await store.page(filters, before=None, limit=PAGE)

        read = await rows_read(engine, page, "audit")
        assert found, filters
        assert read <= 5 * PAGE, (filters, read)
