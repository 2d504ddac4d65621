"""What operators name and say, in Postgres. Each change is counted, so that processes find it at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from sqlalchemy import Row, Table, bindparam, case, delete, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.audit import Entry
from runstream.domain.errors import Conflict
from runstream.storage.audit import ask_noting
from runstream.storage.database import ask
from runstream.storage.statements.changing import COUNTED, RAISED, VERSION
from runstream.storage.tables import flags, plans


@dataclass(frozen=True, slots=True)
class Document:
    """`said` is as it was put."""

    name: str
    said: Mapping[str, Any]
    created_at: datetime
    changed_at: datetime


class Documents:
    """The statements about those of one kind."""

    def __init__(self, table: Table, column: str) -> None:
        said = table.c[column]
        shown = [table.c.name, said.label("said"), table.c.created_at, table.c.changed_at]
        named = table.c.name == bindparam("named")
        new = upsert(table).values(
            {"name": bindparam("named"), column: bindparam("put", type_=JSONB), "changed_in": VERSION}
        )
        self.list = select(*shown).order_by(table.c.name)
        self.get = select(*shown).where(named)
        becoming = {column: new.excluded[column], "changed_in": VERSION, "changed_at": func.now()}
        other = said.is_distinct_from(new.excluded[column])
        self.put = (
            new.on_conflict_do_update(
                index_elements=[table.c.name],
                set_={name: case((other, value), else_=table.c[name]) for name, value in becoming.items()},
            )
            .returning(*shown, (table.c.changed_in == VERSION).label("changed"))
            .add_cte(RAISED)
        )
        self.remove = delete(table).where(COUNTED, named).returning(table.c.name).add_cte(RAISED)


PLANS: Final = Documents(plans, "allowance")
FLAGS: Final = Documents(flags, "rule")


class DocumentStore:
    """Those of one kind. What is changed is changed together with its `entry` in the audit log.

    Every method raises Unavailable.
    """

    def __init__(self, engine: AsyncEngine, documents: Documents) -> None:
        self._ask = partial(ask, engine)
        self._change = partial(ask_noting, engine)
        self._documents = documents

    async def list(self) -> Sequence[Document]:
        """By name."""
        return [_document(row) for row in await self._ask(self._documents.list)]

    async def get(self, name: str) -> Document | None:
        rows = await self._ask(self._documents.get, named=name)
        return _document(rows[0]) if rows else None

    async def put(self, name: str, said: Mapping[str, Any], *, entry: Entry | None = None) -> Document:
        return _document((await self._change(self._documents.put, entry, named=name, put=said))[0])

    async def remove(self, name: str, *, entry: Entry | None = None) -> bool:
        """Whether it was there. Raises Conflict where a tenant has it."""
        try:
            return bool(await self._change(self._documents.remove, entry, named=name))
        except IntegrityError:
            raise Conflict("Tenants have it: give them another one first.") from None


def _document(row: Row[Any]) -> Document:
    return Document(row.name, row.said, row.created_at, row.changed_at)
