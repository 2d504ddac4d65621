"""Content that has been kept for as long as it is to be."""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.retention import Content, Kept
from runstream.storage.database import ask, tell
from runstream.storage.statements import retaining


class RetentionStore:
    """All raise Unavailable."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._ask = partial(ask, engine)
        self._tell = partial(tell, engine)

    async def tenants(self, *, beyond: str, limit: int) -> list[str]:
        """In order, from `beyond` on; an empty one is before all."""
        return [row.id for row in await self._ask(retaining.TENANTS, beyond=beyond, most=limit)]

    async def due(self, kept: Mapping[str, Kept]) -> list[tuple[str, Content]]:
        """Of these tenants, whose content of which kind is older than it is to be."""
        wanted = [(tenant, kind, age) for tenant, of in kept.items() for kind, age in of.items()]
        if not wanted:
            return []
        tenants, kinds, ages = map(list, zip(*wanted, strict=True))
        rows = await self._ask(retaining.DUE, tenants=tenants, kinds=kinds, ages=ages)
        return [(row.tenant, Content(row.kind)) for row in rows]

    async def remove(self, tenant: str, kind: Content, age: timedelta, *, limit: int) -> int:
        """Remove it from some of the tenant's runs that ended longer ago than that; from how many."""
        await self._tell(retaining.MARK, tenant=tenant, kind=kind)
        rows = await self._ask(retaining.REMOVE[kind], tenant=tenant, age=age, most=limit)
        return rows[0].found if rows else 0
