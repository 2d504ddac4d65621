"""What is reserved and spent of limits, as Postgres has it: the truth that counters are read from."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import DateTime, Row, String, any_, bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from runstream.domain.ids import first_id
from runstream.domain.limits import Account, Measure, OpenRun, Scope, Window, in_parts
from runstream.storage.database import answering, ask
from runstream.storage.statements.making import RAISE_EPOCH
from runstream.storage.tables import runs, tenants
from runstream.storage.tenancy import WHOSE, bound

_AT = "coalesce(cast(:at AS timestamptz), now())"
_ACCOUNT = text(f"""
    WITH whose AS (SELECT :whose)
    SELECT 'now' AS kind, NULL AS run_id, NULL AS user_id, NULL AS feature, {_AT} AS minute,
        NULL::timestamptz AS day, NULL::timestamptz AS month, 0::numeric AS tokens, 0::numeric AS cost, 0 AS settled
    UNION ALL
    SELECT 'asked', NULL, user_id, feature, date_trunc('minute', created_at, 'UTC'), NULL, NULL, count(*), 0, 0
    FROM (
        SELECT user_id, feature, created_at FROM runs WHERE tenant = :tenant AND id >= :first
        UNION ALL
        SELECT user_id, feature, created_at FROM deletions
        WHERE tenant = :tenant AND run_id >= :first AND deleted_at IS NOT NULL
    ) AS made
    WHERE created_at >= date_trunc('minute', {_AT}, 'UTC')
    GROUP BY 3, 4, 5
    UNION ALL
    SELECT 'open', id, user_id, feature, NULL, NULL, NULL, coalesce(reserved_tokens, 0), coalesce(reserved_cost, 0),
        attempt - (status = 'running')::int
    FROM runs
    WHERE :bounded AND tenant = :tenant AND status IN ('queued', 'running')
    UNION ALL
    SELECT 'spent', NULL, user_id, feature,
        CASE WHEN made_at >= date_trunc('minute', {_AT}, 'UTC') THEN date_trunc('minute', made_at, 'UTC') END AS minute,
        CASE WHEN made_at >= date_trunc('day', {_AT}, 'UTC') THEN date_trunc('day', made_at, 'UTC') END AS day,
        date_trunc('month', made_at, 'UTC') AS month,
        sum(input_tokens::bigint + output_tokens), coalesce(sum(cost), 0), 0
    FROM ledger
    WHERE :bounded AND tenant = :tenant AND made_at >= date_trunc('month', {_AT}, 'UTC')
    GROUP BY 3, 4, 5, 6, 7
""").bindparams(bindparam("at", type_=DateTime(timezone=True)), WHOSE)  # noqa: S608 - the text is all ours
"""All in one statement, so that it is all of one instant. What was deleted was asked for nevertheless."""
_EPOCH = bound(select(tenants.c.budget_epoch).where(tenants.c.id == bindparam("tenant")))
_ENDED = bound(
    select(runs.c.id, runs.c.finished_at < bindparam("before", type_=DateTime(timezone=True))).where(
        runs.c.id == any_(bindparam("run_ids", type_=ARRAY(String)))
    )
)
_SKEW = timedelta(minutes=10)
"""By which the clocks of those who make ids, and the database's, may differ."""


class BudgetStore:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._ask = partial(ask, engine)

    async def read(self, tenant: str, at: datetime, *, bounded: bool) -> tuple[int, Account]:
        """Begin a new epoch, and only then read what is reserved and spent in the windows that `at` is in.

        What was reserved in an epoch before is either in a row, and read, or will never be. Raises Unavailable.
        """
        rows = await self._ask(RAISE_EPOCH, whose=[tenant], of=tenant)
        account = _account(await self._ask(_ACCOUNT, **_asked(tenant, at, bounded)))
        return rows[0].budget_epoch, account

    async def look(self, tenant: str, *, bounded: bool) -> Account:
        """What is reserved and spent now. Raises Unavailable."""
        return _account(await self._ask(_ACCOUNT, **_asked(tenant, None, bounded)))

    async def epoch(self, tenant: str) -> int:
        """The tenant's. Raises Unavailable."""
        rows = await self._ask(_EPOCH, whose=[tenant], tenant=tenant)
        return int(rows[0].budget_epoch)

    async def standing(self, tenant: str, run_ids: Sequence[str], before: datetime) -> dict[str, bool]:
        """Of each run of the tenant's that there is, whether it has ended before that. Raises Unavailable."""
        rows = await self._ask(_ENDED, whose=[tenant], run_ids=run_ids, before=before)
        return {run_id: bool(ended) for run_id, ended in rows}


@asynccontextmanager
async def held_still(
    engine: AsyncEngine, tenant: str, *, bounded: bool
) -> AsyncIterator[tuple[AsyncConnection, int, Account]]:
    """A transaction in which nobody else reserves anything of the tenant's, with what is reserved and spent till then.

    It begins a new epoch, for what is counted elsewhere does not know of it. Raises Unavailable.
    """
    with answering():
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="READ COMMITTED")
            async with connection.begin():
                epoch = (await connection.execute(RAISE_EPOCH, {"whose": [tenant], "of": tenant})).scalar_one()
                read = await connection.execute(_ACCOUNT, _asked(tenant, None, bounded))
                yield connection, epoch, _account(read.all())


def _asked(tenant: str, at: datetime | None, bounded: bool) -> dict[str, Any]:
    since = (at or datetime.now(UTC)) - _SKEW
    first = first_id("run", max(0.0, since.timestamp()))
    return {"whose": [tenant], "tenant": tenant, "at": at, "bounded": bounded, "first": first}


def _account(rows: Sequence[Row[Any]]) -> Account:
    spent: Counter[tuple[Window, datetime, Scope, str, Measure]] = Counter()
    opened = []
    (at,) = [row.minute for row in rows if row.kind == "now"]
    for row in rows:
        if row.kind == "open":
            cost = in_parts(row.cost)
            opened.append(OpenRun(row.run_id, row.user_id, row.feature, int(row.tokens), cost, row.settled))
        if row.kind not in {"asked", "spent"}:
            continue
        amounts = {Measure.REQUESTS: int(row.tokens)}
        if row.kind == "spent":
            amounts = {Measure.TOKENS: int(row.tokens), Measure.COST: in_parts(row.cost)}
        whose = ((Scope.USER, row.user_id), (Scope.TENANT, ""), (Scope.FEATURE, row.feature))
        for window, first in ((Window.MINUTE, row.minute), (Window.DAY, row.day), (Window.MONTH, row.month)):
            for scope, name in whose if first is not None else ():
                for measure, amount in amounts.items():
                    spent[window, first, scope, name, measure] += amount
    return Account(at, opened, spent)
