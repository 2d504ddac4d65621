"""Many runs of Postgres at once: pages of them, and how many there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.principal import Owner
from runstream.domain.run import Run, Status
from runstream.storage.content import PLAIN, Content
from runstream.storage.database import ask
from runstream.storage.run_content import RunContent
from runstream.storage.statements import parts, reading
from runstream.storage.tables import runs
from runstream.storage.tenancy import bound


@dataclass(frozen=True, slots=True)
class Filters:
    status: Status | None = None
    feature: str | None = None
    user: str | None = None
    subject_type: str | None = None
    subject_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


class RunLists:
    """A tenant's: pages show the newest run first, and runs without input and output."""

    def __init__(self, engine: AsyncEngine, content: Content = PLAIN) -> None:
        self._ask = partial(ask, engine)
        self._content = RunContent(content)

    async def page(self, owner: Owner, filters: Filters, *, before: str | None, limit: int) -> list[Run]:
        """`before` is the id of the last run of the page before."""
        query = bound(_newest(before, limit).where(*_owned(owner), *_fitting(filters)))
        return await self._content.runs(await self._ask(query, whose=[owner.tenant]))


class AllRuns:
    """Of all tenants, with the sweep's rights: for operators, and for what is nobody's in particular.

    Content that cannot be opened is left out, and a run's error then says so.
    """

    def __init__(self, engine: AsyncEngine, content: Content = PLAIN) -> None:
        self._ask = partial(ask, engine)
        self._content = RunContent(content)

    async def find(self, run_id: str) -> Run | None:
        """Whosever it is."""
        return await self._content.run(await self._ask(reading.FIND, run_id=run_id), strict=False)

    async def newest(
        self, *, tenant: str | None, status: Status | None, since: str | None, before: str | None, limit: int
    ) -> list[Run]:
        """As a page, with ids from `since` on and before `before`; of all tenants where none is named."""
        query = _newest(before, limit).where(*_equal({runs.c.tenant: tenant, runs.c.status: status}))
        if since is not None:
            query = query.where(runs.c.id >= since)
        return await self._content.runs(await self._ask(query), strict=False)

    async def queued(self, queue: str) -> dict[str, int]:
        """How many runs wait in the queue, by tenant."""
        return {row.tenant: row.runs for row in await self._ask(reading.QUEUED, in_queue=queue)}

    async def counts(self) -> dict[str, int]:
        """How many runs are queued and how many run, altogether."""
        return {row.status: row.runs for row in await self._ask(reading.COUNTS)}


def _newest(before: str | None, limit: int) -> Select[Any]:
    query = select(*parts.LISTED).order_by(runs.c.id.desc()).limit(limit)
    return query if before is None else query.where(runs.c.id < before)


def _owned(owner: Owner) -> list[ColumnElement[bool]]:
    return [runs.c.tenant == owner.tenant, *_equal({runs.c.user_id: owner.user})]


def _fitting(filters: Filters) -> list[ColumnElement[bool]]:
    conditions = _equal(
        {
            runs.c.status: filters.status,
            runs.c.feature: filters.feature,
            runs.c.user_id: filters.user,
            runs.c.subject_type: filters.subject_type,
            runs.c.subject_id: filters.subject_id,
        }
    )
    if filters.created_after is not None:
        conditions.append(runs.c.created_at >= filters.created_after)
    if filters.created_before is not None:
        conditions.append(runs.c.created_at < filters.created_before)
    return conditions


def _equal(wanted: Mapping[ColumnElement[Any], str | None]) -> list[ColumnElement[bool]]:
    """What is None may be anything."""
    return [column == value for column, value in wanted.items() if value is not None]
