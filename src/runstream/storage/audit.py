"""The audit log: appended to, read, and by nothing here changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Executable, Row, Select, bindparam, collate, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.selectable import HasCTE

from runstream.domain.audit import Action, Actor, ActorKind, Entry
from runstream.domain.ids import first_id
from runstream.storage.database import ask
from runstream.storage.tables import audit
from runstream.storage.tenancy import bound

_GIVEN = {column.name: bindparam(f"audit_{column.name}", type_=column.type) for column in audit.c}
_APPEND = bound(insert(audit).values(_GIVEN).returning(audit.c.id))
_MILLISECOND = 0.001
"""Seconds: an id is as exact."""


@dataclass(frozen=True, slots=True)
class AuditFilters:
    """`since` and before `until`."""

    tenant: str | None = None
    action: Action | None = None
    target: str | None = None
    principal: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class AuditStore:
    """Every method raises Unavailable."""

    def __init__(self, engine: AsyncEngine, overall: AsyncEngine) -> None:
        """`overall` has the sweep's rights: what is of no tenant, or of all, is asked there."""
        self._engine = engine
        self._overall = overall

    async def append(self, entry: Entry) -> None:
        """For what changes no row, and is to be done once this is written."""
        await self._ask(entry.tenant, _APPEND, **_values(entry))

    async def page(self, filters: AuditFilters, *, before: str | None, limit: int) -> list[Entry]:
        """The newest first, of all tenants where none is named; `before` is the id of the last one of the page before.

        Reads about as many entries as it answers, where one thing is asked for beside the tenant and the time.
        """
        wanted = {
            audit.c.action: filters.action,
            audit.c.target_id: filters.target,
            audit.c.principal_id: filters.principal,
        }
        equal = [column == value for column, value in wanted.items() if value is not None]
        order: ColumnElement[str] = collate(audit.c.id, "C") if equal else audit.c.id  # see the table's indexes
        query = select(audit).where(*equal).order_by(order.desc()).limit(limit)
        if filters.tenant is not None:
            query = query.where(audit.c.tenant == filters.tenant)
        if before is not None:
            query = query.where(order < before)
        if filters.since is not None:
            query = query.where(order >= _first(filters.since), audit.c.at >= filters.since)
        if filters.until is not None:
            query = query.where(order < _first(filters.until, later=_MILLISECOND), audit.c.at < filters.until)
        return [_entry(row) for row in await self._ask(filters.tenant, bound(query))]

    async def _ask(self, tenant: str | None, statement: Executable, **values: Any) -> Sequence[Row[*tuple[Any, ...]]]:
        if tenant is None:
            return await ask(self._overall, statement, whose=None, **values)
        return await ask(self._engine, statement, whose=[tenant], **values)


async def ask_noting(
    engine: AsyncEngine, change: Any, entry: Entry | None, **values: Any
) -> Sequence[Row[*tuple[Any, ...]]]:
    """`ask` for a change, to which the entry is written where it changed anything, in the same statement."""
    statement, entered = noting(change, entry)
    return await ask(engine, statement, **values, **entered)


def noting(change: Any, entry: Entry | None) -> tuple[Executable, Mapping[str, Any]]:
    """The change, which answers a row for each thing that it changed, with its entry; and what the entry gives.

    A row whose column `changed` is false is of what was so already.
    """
    return (change, {}) if entry is None else (_noting(change), _values(entry))


def _noting(change: HasCTE) -> Select[Any]:
    done = change.cte("done")
    row = select(*_GIVEN.values()).select_from(done).limit(1)
    if "changed" in done.c:
        row = row.where(done.c.changed)
    return select(done).add_cte(insert(audit).from_select([*_GIVEN], row).cte("entered_in_audit"))


def _values(entry: Entry) -> dict[str, Any]:
    return {
        "audit_id": entry.id,
        "audit_at": entry.at,
        "audit_tenant": entry.tenant,
        "audit_principal_kind": entry.by.kind,
        "audit_principal_id": entry.by.id,
        "audit_principal_user": entry.by.user,
        "audit_action": entry.action,
        "audit_target_type": entry.target_type,
        "audit_target_id": entry.target,
        "audit_address": entry.by.address,
        "audit_user_agent": entry.by.user_agent,
        "audit_request_id": entry.by.request_id,
        "audit_details": entry.details,
    }


def _entry(row: Row[Any]) -> Entry:
    by = Actor(
        ActorKind(row.principal_kind),
        row.principal_id,
        row.request_id,
        row.principal_user,
        row.address,
        row.user_agent,
    )
    return Entry(row.id, row.at, by, row.action, row.tenant, row.target_id, row.details)


def _first(moment: datetime, *, later: float = 0.0) -> str:
    return first_id("aud", max(0.0, moment.timestamp() + later))
