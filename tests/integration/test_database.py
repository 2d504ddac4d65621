"""What Postgres answers where it does not do what it is told."""

import asyncio

import asyncpg
import pytest
from sqlalchemy import text

from runstream.domain.errors import Unavailable
from runstream.storage import database
from runstream.storage.database import ask, connect
from runstream.storage.tenancy import Role

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


async def test_a_connection_that_is_cut_before_it_can_be_used_is_one_that_does_not_answer(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = "select set_config($1, pg_terminate_backend(pg_backend_pid())::text, true)"
    monkeypatch.setattr(database, "_TAKE_ROLE", cut)
    engine = connect(database_url, pool_size=1, timeout=DEADLINE, role=Role.APPLICATION)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await ask(engine, text("select 1"))
    await engine.dispose()


async def test_a_connection_that_the_driver_has_lost_track_of_is_not_used_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def confused(*_: object, **__: object) -> None:
        raise asyncpg.InternalClientError("got result for unknown protocol state")

    engine = connect(database_url, pool_size=1, timeout=DEADLINE)
    own = text("select pg_backend_pid()")
    ((before,),) = await ask(engine, own)
    with monkeypatch.context() as patched:
        patched.setattr(asyncpg.prepared_stmt.PreparedStatement, "fetch", confused)
        with pytest.raises(Unavailable):
            await ask(engine, own)
    ((after,),) = await ask(engine, own)
    assert after != before
    await engine.dispose()
