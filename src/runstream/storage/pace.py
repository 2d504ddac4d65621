"""Whose spend of the day runs ahead of its usual: the ledger, added up by quarters of an hour."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from sqlalchemy import DateTime, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from runstream.storage.database import answering

_DAYS = 7
"""Days before this one whose average is the usual."""
_QUARTER = timedelta(minutes=15)
_DAY = timedelta(days=1)
_LOCK: Final = 0x72735F70616365
"""Of the database's advisory locks: who holds it adds up."""

_TAKE_TURN = text("SELECT pg_try_advisory_xact_lock(:lock)")
_ADDED_UP = text("SELECT max(quarter) FROM spend_quarters")
_ADD_UP = text("""
    INSERT INTO spend_quarters (quarter, tenant, cost)
    SELECT spent.quarter, tenants.id, spent.cost
    FROM tenants CROSS JOIN LATERAL (
        SELECT date_bin('15 minutes', made_at, '2000-01-01T00:00:00Z') AS quarter, sum(cost) AS cost
        FROM ledger
        WHERE tenant = tenants.id AND made_at >= :since AND made_at < :until AND cost > 0
        GROUP BY 1
    ) AS spent
    ON CONFLICT (quarter, tenant) DO UPDATE SET cost = excluded.cost
""").bindparams(*(bindparam(name, type_=DateTime(timezone=True)) for name in ("since", "until")))
"""A tenant at a time, by the ledger's index: however long the ledger is, only what was spent since then is read."""
_FORGET = text("DELETE FROM spend_quarters WHERE quarter < :first")
_AHEAD = text("""
    WITH pace AS (
        SELECT tenant,
            coalesce(sum(cost) FILTER (WHERE quarter >= :day), 0) AS today,
            coalesce(sum(cost) FILTER (WHERE quarter < :day), 0) / :days AS usual
        FROM spend_quarters
        WHERE quarter >= :first AND quarter - date_trunc('day', quarter, 'UTC') <= CAST(:now AS timestamptz) - :day
        GROUP BY tenant
    ), ahead AS (
        SELECT id AS tenant, today, usual FROM tenants JOIN pace ON pace.tenant = id
        WHERE today >= :floor AND today > :times * usual
            AND spend_warned_on IS DISTINCT FROM CAST(:day AT TIME ZONE 'UTC' AS date)
        FOR NO KEY UPDATE OF tenants SKIP LOCKED
    )
    UPDATE tenants SET spend_warned_on = CAST(:day AT TIME ZONE 'UTC' AS date)
    FROM ahead WHERE id = ahead.tenant
    RETURNING id, today, usual
""").bindparams(*(bindparam(name, type_=DateTime(timezone=True)) for name in ("now", "day", "first")))
"""Who cannot be marked at once, as a run is being made, is left to the next look: nobody waits, in whichever order."""


class Ahead(NamedTuple):
    """US dollars: what a tenant has spent today, and what it usually has by the end of this quarter of an hour."""

    tenant: str
    today: Decimal
    usual: Decimal


class PaceStore:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def ahead(self, *, times: Decimal, floor: Decimal, now: datetime | None = None) -> Sequence[Ahead]:
        """Those who have spent at least `floor` since midnight in UTC, and more than `times` their usual.

        Each is answered once a day, whoever asks, and however many at once. The usual is the average of the seven days
        before; of a tenant that is new, the days before it came count as nothing spent. Raises Unavailable.
        """
        now = now or datetime.now(UTC)
        day = now.replace(hour=0, minute=0, second=0, microsecond=0)
        first = day - _DAYS * _DAY
        with answering():
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="READ COMMITTED")
                async with connection.begin():
                    if not (await connection.execute(_TAKE_TURN, {"lock": _LOCK})).scalar_one():
                        return []
                    await self._add_up(connection, first, now)
                    await connection.execute(_FORGET, {"first": first})
                    asked = {"now": now, "day": day, "first": first, "days": _DAYS, "times": times, "floor": floor}
                    rows = (await connection.execute(_AHEAD, asked)).all()
        return [Ahead(*row) for row in rows]

    async def _add_up(self, connection: AsyncConnection, first: datetime, now: datetime) -> None:
        """From the quarter before the last that is there: entries that came late are in. A day to a statement."""
        last = (await connection.execute(_ADDED_UP)).scalar_one()
        since = max(first, last - _QUARTER) if last else first
        while since < now:
            until = min(since + _DAY, now + _QUARTER)
            await connection.execute(_ADD_UP, {"since": since, "until": until})
            since = until
