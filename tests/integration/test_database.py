"""What Postgres answers where it does not do what it is told."""

import asyncio

import asyncpg
import pytest
from sqlalchemy import text

from runstream.domain.errors import Unavailable
from runstream.storage.database import ask, connect

DEADLINE = 20


async def test_what_is_undone_so_that_another_can_go_on_may_be_asked_for_again(database_url: str) -> None:
    """Two statements that wait for each other's rows: Postgres gives up one of them, and nothing of it was done."""
    engine = connect(database_url, pool_size=1, timeout=DEADLINE)
    other = await asyncpg.connect(database_url, timeout=DEADLINE)
    await other.execute("insert into tenants (id) values ('a'), ('b')")
    await other.execute("set deadlock_timeout = '15s'")  # so that it is the one that goes on
    downwards = text("select id from tenants order by id desc for update")
    async with asyncio.timeout(DEADLINE), other.transaction():
        await other.execute("select from tenants where id = 'a' for update")
        asked = asyncio.create_task(ask(engine, downwards))
        waits = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%desc for update'"
        while not await other.fetchval(waits):
            await other.execute("select pg_stat_clear_snapshot()")
        await other.execute("select from tenants where id = 'b' for update")
    with pytest.raises(Unavailable):
        await asked
    assert len(await ask(engine, downwards)) == 2
    await other.close()
    await engine.dispose()
