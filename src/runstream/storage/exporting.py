"""All of a tenant, in pages of a bounded size: the oldest first."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Row, Select, any_, bindparam, func, select, tuple_
from sqlalchemy import String as Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.run import AttemptRecord, Run
from runstream.domain.transcript import Transcript
from runstream.storage.content import PLAIN, Content
from runstream.storage.database import ask
from runstream.storage.rows import run_of
from runstream.storage.run_content import RunContent
from runstream.storage.statements.parts import SHOWN
from runstream.storage.tables import attempts, ledger, runs
from runstream.storage.tenancy import bound

_PAGE = (1, 8, 100)
"""Runs that are read at a time: at least, at first, and at most."""
_PAGE_CHARACTERS = 1_000_000
"""About how much that may be: a page is held whole."""
_ENTRIES = 1000

_ATTEMPTS = bound(
    select(attempts)
    .where(attempts.c.tenant == bindparam("tenant"), attempts.c.run_id == any_(bindparam("run_ids", type_=ARRAY(Text))))
    .order_by(attempts.c.run_id, attempts.c.attempt)
)
_PLACE = (ledger.c.made_at, ledger.c.run_id, ledger.c.attempt, ledger.c.call)


class WholeRun(NamedTuple):
    """`transcript` is None where the run has not ended, or that is not kept any more."""

    run: Run
    transcript: Transcript | None
    attempts: Sequence[AttemptRecord]


class ExportStore:
    """Each page is read by itself, from where the one before ended, so nothing is held open meanwhile.

    What is made after `before` is left out; what changes meanwhile is as it is when its page is read. All raise
    Unavailable.
    """

    def __init__(self, engine: AsyncEngine, content: Content = PLAIN) -> None:
        self._ask = partial(ask, engine)
        self._content = RunContent(content)

    async def now(self) -> datetime:
        moment: datetime = (await self._ask(select(func.now())))[0][0]
        return moment

    async def runs(self, tenant: str, user: str | None, before: datetime) -> AsyncIterator[WholeRun]:
        least, size, most = _PAGE
        beyond = ""
        while True:
            rows = await self._ask(bound(_runs(tenant, user, before, beyond, size)), whose=[tenant])
            if not rows:
                return
            for whole in await self._whole(tenant, rows):
                yield whole
            beyond = rows[-1].id
            small = sum(map(_characters, rows)) < _PAGE_CHARACTERS
            size = min(2 * size, most) if small else max(size // 4, least)

    async def _whole(self, tenant: str, rows: Sequence[Row[Any]]) -> list[WholeRun]:
        of_run: dict[str, list[AttemptRecord]] = {row.id: [] for row in rows}
        for row in await self._ask(_ATTEMPTS, whose=[tenant], tenant=tenant, run_ids=list(of_run)):
            of_run[row.run_id].append(await self._content.attempt(row))
        wholes = []
        for row in rows:
            opened = await self._content.opened(row)
            events = opened["transcript"]
            transcript = None if events is None else Transcript.load(row.attempt, events)
            wholes.append(WholeRun(run_of(opened), transcript, of_run[row.id]))
        return wholes

    async def ledger(self, tenant: str, user: str | None, before: datetime) -> AsyncIterator[dict[str, Any]]:
        """Each call's entry, as its row is, without the tenant."""
        query = select(ledger).where(ledger.c.tenant == tenant, ledger.c.made_at <= before)
        if user is not None:
            query = query.where(ledger.c.user_id == user)
        query = query.order_by(*_PLACE).limit(_ENTRIES)
        rows = await self._ask(bound(query), whose=[tenant])
        while rows:
            for row in rows:
                yield {name: value for name, value in row._mapping.items() if name != "tenant"}
            last = rows[-1]
            beyond = tuple_(*_PLACE) > (last.made_at, last.run_id, last.attempt, last.call)
            rows = await self._ask(bound(query.where(beyond)), whose=[tenant])


def _runs(tenant: str, user: str | None, before: datetime, beyond: str, limit: int) -> Select[Any]:
    query = select(*SHOWN, runs.c.transcript).where(
        runs.c.tenant == tenant, runs.c.id > beyond, runs.c.created_at <= before
    )
    if user is not None:
        query = query.where(runs.c.user_id == user)
    return query.order_by(runs.c.id).limit(limit)


def _characters(row: Row[Any]) -> int:
    return len(row.output or "") + len(row.reasoning or "") + len(str(row.input))
