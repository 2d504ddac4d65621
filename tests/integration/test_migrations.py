"""Migrations make the tables that the code describes, can be undone, and may be started by every process at once."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from runstream.domain.errors import Unavailable
from runstream.storage.command import explained
from runstream.storage.database import connect
from runstream.storage.migrate import check, downgrade, pending, upgrade

DEADLINE = 60
POLL = 0.02


async def test_migrations_make_the_tables_that_the_code_describes_and_leave_none(empty_database_url: str) -> None:
    for _ in range(2):
        await asyncio.to_thread(upgrade, empty_database_url)
        await asyncio.to_thread(check, empty_database_url)
        await asyncio.to_thread(downgrade, empty_database_url, "base")
        assert await left_over(empty_database_url) == ["alembic_version"]


async def test_what_is_missing_is_told_until_it_is_migrated(empty_database_url: str) -> None:
    engine = connect(empty_database_url, pool_size=1, timeout=DEADLINE)
    try:
        assert await pending(engine) is not None
        await asyncio.to_thread(upgrade, empty_database_url)
        assert await pending(engine) is None
    finally:
        await engine.dispose()


async def test_a_process_goes_on_when_the_tables_are_made_ready_for_a_later_version(database_url: str) -> None:
    connection = await asyncpg.connect(database_url, timeout=DEADLINE)
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    await connection.close()
    engine = connect(database_url, pool_size=1, timeout=DEADLINE)
    try:
        assert await pending(engine) is None
    finally:
        await engine.dispose()


async def test_processes_that_migrate_at_once_wait_for_each_other(empty_database_url: str) -> None:
    async with first_table_taken(empty_database_url) as observer:
        migrating = [await runstream_migrate(empty_database_url) for _ in range(2)]
        await until_waiting(observer, len(migrating))
    async with asyncio.timeout(DEADLINE):
        printed = [(await process.communicate())[0].decode() for process in migrating]
    assert [process.returncode for process in migrating] == [0, 0], printed
    await asyncio.to_thread(check, empty_database_url)


async def test_a_migration_that_has_to_wait_for_a_table_gives_up_before_all_wait_behind_it(
    empty_database_url: str,
) -> None:
    await asyncio.to_thread(upgrade, empty_database_url, "0002")
    reader = await asyncpg.connect(empty_database_url, timeout=DEADLINE)
    try:
        async with asyncio.timeout(DEADLINE), reader.transaction():
            await reader.fetch("SELECT id FROM runs")
            with pytest.raises(Unavailable, match="in use"), explained():
                await asyncio.to_thread(upgrade, empty_database_url, patience=0.1)
    finally:
        await reader.close()
    await asyncio.to_thread(upgrade, empty_database_url)
    await asyncio.to_thread(check, empty_database_url)


async def left_over(url: str) -> list[str]:
    """What is in the database, of every kind that a migration could leave behind."""
    connection = await asyncpg.connect(url, timeout=DEADLINE)
    try:
        query = """
            SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'S')
            UNION SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            UNION SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('d', 'e')
        """
        return [row[0] for row in await connection.fetch(query)]
    finally:
        await connection.close()


@asynccontextmanager
async def first_table_taken(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Hold a migration up at its first table; the connection given is a second one, to look on with."""
    holder, observer = [await asyncpg.connect(url, timeout=DEADLINE) for _ in range(2)]
    try:
        hold = holder.transaction()
        await hold.start()
        await holder.execute("CREATE TABLE tenants ()")
        try:
            yield observer
        finally:
            await hold.rollback()
    finally:
        await holder.close()
        await observer.close()


async def until_waiting(observer: asyncpg.Connection, processes: int) -> None:
    query = """
        SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    async with asyncio.timeout(DEADLINE):
        while await observer.fetchval(query) < processes:
            await asyncio.sleep(POLL)


async def runstream_migrate(url: str) -> Process:
    environment = {**os.environ, "RUNSTREAM_DATABASE_URL": url}
    command = [sys.executable, "-m", "runstream", "migrate"]
    return await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE, stderr=STDOUT)
