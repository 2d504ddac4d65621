"""Delete what there is of a tenant, some rows at a time."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Table,
    any_,
    bindparam,
    delete,
    func,
    literal_column,
    not_,
    or_,
    select,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.run import Status
from runstream.storage.database import ask
from runstream.storage.statements.parts import SECONDS
from runstream.storage.tables import api_keys, audit, metadata, runs

_OF: BindParameter[str] = bindparam("of")
_ROW: ColumnElement[Any] = literal_column("ctid")


def _goes_along(table: Table) -> bool:
    """Whether each of its rows is of another one of the tenant's, and is deleted with that."""
    return any(key.ondelete == "CASCADE" and not key.parent.nullable for key in table.foreign_keys)


_TABLES = [
    table
    for table in reversed(metadata.sorted_tables)
    if "tenant" in table.c and table is not audit and not _goes_along(table)
]
TABLES: Final = [table.name for table in _TABLES]
"""In an order in which nothing that is left refers to what goes. The audit log's entries go last, with the tenant."""
RUNS: Final = runs.name

_MAY_GO: dict[Table, ColumnElement[bool]] = {
    runs: runs.c.status != Status.RUNNING,
    api_keys: api_keys.c.revoked_at < func.now() - SECONDS,
}
_EMPTY = select(not_(or_(*(select(_ROW).where(table.c.tenant == _OF).exists() for table in _TABLES))).label("empty"))


class RemovalStore:
    """Over all tenants. Every method raises Unavailable."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._ask = partial(ask, engine)

    async def delete(self, name: str, tenant: str, *, most: int, key_rest: float) -> Sequence[Any]:
        """Delete up to `most` of the tenant's rows of a table; answers the first column of their primary key.

        A run stays while it runs, and a key until it was revoked for `key_rest` seconds. What another process
        deletes at that moment is left to it.
        """
        table = metadata.tables[name]
        some = (
            select(_ROW).select_from(table).where(table.c.tenant == _OF).limit(most).with_for_update(skip_locked=True)
        )
        if (may_go := _MAY_GO.get(table)) is not None:
            some = some.where(may_go)
        statement = delete(table).where(any_(func.array(some.scalar_subquery())) == _ROW).returning(*table.primary_key)
        given = {"seconds": timedelta(seconds=key_rest)} if table is api_keys else {}
        return [row[0] for row in await self._ask(statement, of=tenant, **given)]

    async def empty(self, tenant: str) -> bool:
        """Whether nothing of the tenant is left but its own row: in all tables at one instant."""
        return bool((await self._ask(_EMPTY, of=tenant))[0].empty)
