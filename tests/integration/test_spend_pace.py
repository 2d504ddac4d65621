"""Whose spend of the day runs ahead of its usual: told once a day, and found without reading the ledger again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.storage.pace import Ahead, PaceStore

DEADLINE = 60
DAY = timedelta(days=1)
MIDNIGHT = datetime(2026, 5, 20, tzinfo=UTC)
NOW = MIDNIGHT + timedelta(hours=10, minutes=7)
MORNING, EVENING = timedelta(hours=9), timedelta(hours=20)
ENTER = """
    INSERT INTO ledger (run_id, attempt, call, tenant, user_id, feature, model, provider, provider_model,
        input_tokens, output_tokens, cached_tokens, estimated, cost, made_at)
    SELECT gen_random_uuid()::text, 1, n, $1, 'ada', 'chat', 'm', 'p', 'm', 1, 1, 0, false, $2, $3
    FROM generate_series(1, $4) n
"""
READ = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'ledger'"


class Ledger:
    """What tenants spent, as this test says, and who is found to be ahead."""

    def __init__(self, connection: asyncpg.Connection, engine: AsyncEngine) -> None:
        self._connection = connection
        self._pace = PaceStore(engine)

    async def enter(self, tenant: str, cost: str | None, at: datetime, *, times: int = 1) -> None:
        await self._connection.execute("INSERT INTO tenants (id) VALUES ($1) ON CONFLICT DO NOTHING", tenant)
        await self._connection.execute(ENTER, tenant, cost and Decimal(cost), at, times)

    async def each_day(self, tenant: str, cost: str, at: timedelta) -> None:
        """On each of the seven days before today."""
        for days in range(1, 8):
            await self.enter(tenant, cost, MIDNIGHT - days * DAY + at)

    async def ahead(self, now: datetime = NOW) -> list[Ahead]:
        return sorted(await self._pace.ahead(times=Decimal(2), floor=Decimal(1), now=now))


@pytest.fixture
def ledger(database: asyncpg.Connection, overall: AsyncEngine) -> Ledger:
    return Ledger(database, overall)


def tenants(found: Sequence[Ahead]) -> list[str]:
    return [each.tenant for each in found]


async def test_who_spent_more_than_so_many_times_its_usual_till_this_time_of_day_is_ahead(ledger: Ledger) -> None:
    for tenant, today in (("steady", "20"), ("ahead", "20.1")):
        await ledger.each_day(tenant, "10", MORNING)
        await ledger.enter(tenant, today, MIDNIGHT + MORNING)
    await ledger.each_day("evenings", "100", EVENING)
    await ledger.each_day("evenings", "1", MORNING)
    await ledger.enter("evenings", "5", NOW)
    await ledger.enter("new", "1", MIDNIGHT)
    await ledger.enter("small", "0.99", NOW)
    await ledger.enter("unpriced", None, NOW)
    await ledger.enter("long-ago", "70", MIDNIGHT - 8 * DAY + MORNING)
    await ledger.enter("long-ago", "1", NOW)
    await ledger.enter("yesterday", "50", MIDNIGHT - timedelta(microseconds=1))
    assert await ledger.ahead() == [
        ("ahead", Decimal("20.1"), Decimal(10)),
        ("evenings", Decimal(5), Decimal(1)),
        ("long-ago", Decimal(1), Decimal(0)),
        ("new", Decimal(1), Decimal(0)),
    ]


async def test_each_is_told_once_a_day_however_many_ask_and_again_on_another(ledger: Ledger) -> None:
    for tenant in ("acme", "globex"):
        await ledger.enter(tenant, "5", NOW)
    asked = await asyncio.gather(*(ledger.ahead() for _ in range(4)))
    assert sorted(tenant for found in asked for tenant in tenants(found)) == ["acme", "globex"]
    await ledger.enter("acme", "50", NOW)
    assert await ledger.ahead(NOW + timedelta(minutes=30)) == []
    await ledger.enter("acme", "50", NOW + DAY)
    assert tenants(await ledger.ahead(NOW + DAY)) == ["acme"]


async def test_what_is_entered_later_is_added_once_and_so_is_what_was_entered_late(ledger: Ledger) -> None:
    await ledger.enter("acme", "0.3", NOW - timedelta(minutes=10))
    await ledger.enter("acme", "0.3", NOW)
    for minutes in range(3):
        assert await ledger.ahead(NOW + timedelta(minutes=minutes)) == []
    await ledger.enter("acme", "0.3", NOW - timedelta(minutes=8))
    await ledger.enter("acme", "0.3", NOW + timedelta(minutes=20))
    assert await ledger.ahead(NOW + timedelta(minutes=20)) == [("acme", Decimal("1.2"), Decimal(0))]


async def test_a_tenant_whose_row_is_held_is_left_to_the_next_look_and_nobody_waits(
    ledger: Ledger, database_url: str
) -> None:
    for tenant in ("acme", "globex"):
        await ledger.enter(tenant, "5", NOW)
    holder = await asyncpg.connect(database_url, timeout=DEADLINE)
    async with holder.transaction():
        await holder.execute("SELECT FROM tenants WHERE id = 'acme' FOR SHARE")
        assert tenants(await ledger.ahead()) == ["globex"]
    assert tenants(await ledger.ahead()) == ["acme"]
    await holder.close()


async def test_a_look_reads_what_was_spent_since_the_last_one_however_long_the_ledger_is(
    ledger: Ledger, overall: AsyncEngine, database: asyncpg.Connection
) -> None:
    long, few = 20_000, 10
    for days in (1, 2, 30):
        await ledger.enter("acme", "0.000001", MIDNIGHT - days * DAY, times=long)
    await ledger.enter("acme", "0.1", NOW, times=few)
    await database.execute("ANALYZE ledger")
    await ledger.ahead()
    before = await rows_read(overall)
    await ledger.ahead(NOW + timedelta(minutes=1))
    assert 0 < await rows_read(overall) - before <= 2 * few


async def rows_read(engine: AsyncEngine) -> int:
    """How many of the ledger's rows Postgres has read so far, for the one connection that was needed."""
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        return int((await connection.exec_driver_sql(READ)).scalar_one())
