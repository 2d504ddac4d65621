"""Adding spend up, beside what runs need of Postgres."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg

from runstream.domain.principal import Owner
from runstream.storage.database import connect
from runstream.storage.runs import RunStore
from runstream.storage.spend import SpendStore
from runstream.storage.tenancy import Role

DEADLINE = 20
POOL = 4


async def test_sums_that_take_long_leave_connections_to_runs(database_url: str) -> None:
    engine = connect(database_url, pool_size=POOL, timeout=DEADLINE, role=Role.APPLICATION)
    holder = await asyncpg.connect(database_url, timeout=DEADLINE)
    spend, until = SpendStore(engine), datetime.now(UTC)
    try:
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as asking, holder.transaction():
            await holder.execute("lock table ledger in access exclusive mode")
            sums = [
                asking.create_task(
                    spend.spend(Owner("acme", None), [], since=until - timedelta(days=1), until=until, limit=1)
                )
                for _ in range(2 * POOL)
            ]
            while not await holder.fetchval("select count(*) from pg_locks where not granted"):
                await asyncio.sleep(0.01)
            assert await RunStore(engine).get(Owner("acme", None), "run_1") is None
            assert not any(each.done() for each in sums)
        assert [each.result()[0].calls for each in sums] == [0] * len(sums)
    finally:
        await holder.close()
        await engine.dispose()
