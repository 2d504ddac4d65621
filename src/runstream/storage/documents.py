"""What operators name and say, in Postgres. Each change is counted, so that processes find it at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from sqlalchemy import Table, bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.errors import Conflict
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
        self.put = (
            new.on_conflict_do_update(
                index_elements=[table.c.name],
                set_={"changed_at": func.now(), **{name: new.excluded[name] for name in (column, "changed_in")}},
            )
            .returning(*shown)
            .add_cte(RAISED)
        )
        self.remove = delete(table).where(COUNTED, named).returning(table.c.name).add_cte(RAISED)


PLANS: Final = Documents(plans, "allowance")
FLAGS: Final = Documents(flags, "rule")


class DocumentStore:
    """Those of one kind. Every method raises Unavailable."""

    def __init__(self, engine: AsyncEngine, documents: Documents) -> None:
        self._ask = partial(ask, engine)
        self._documents = documents

    async def list(self) -> Sequence[Document]:
        """By name."""
        return [Document(*row) for row in await self._ask(self._documents.list)]

    async def get(self, name: str) -> Document | None:
        rows = await self._ask(self._documents.get, named=name)
        return Document(*rows[0]) if rows else None

    async def put(self, name: str, said: Mapping[str, Any]) -> Document:
        return Document(*(await self._ask(self._documents.put, named=name, put=said))[0])

    async def remove(self, name: str) -> bool:
        """Whether it was there. Raises Conflict where a tenant has it."""
        try:
            return bool(await self._ask(self._documents.remove, named=name))
        except IntegrityError:
            raise Conflict("Tenants have it: give them another one first.") from None
