"""Tenants and their API keys. A key itself is never stored, only its hash."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.storage.database import answering
from runstream.storage.tables import api_keys, tenants


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """`hint` is the key's first characters: enough to recognise it, too little to use it."""

    id: str
    tenant: str
    user: str
    hint: str
    created_at: datetime
    revoked_at: datetime | None


_FIND = select(api_keys.c.tenant, api_keys.c.user_id).where(
    api_keys.c.hash == bindparam("key_hash"), api_keys.c.revoked_at.is_(None)
)


class KeyStore:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, *, key_id: str, tenant: str, user: str, key_hash: bytes, hint: str) -> None:
        """Store a key, and its tenant where it is new."""
        with answering():
            async with self._engine.connect() as connection:
                await connection.execute(upsert(tenants).values(id=tenant).on_conflict_do_nothing())
                await connection.execute(
                    insert(api_keys).values(id=key_id, tenant=tenant, user_id=user, hash=key_hash, hint=hint)
                )

    async def find(self, key_hash: bytes) -> tuple[str, str] | None:
        """The tenant and the user of a key that is not revoked."""
        with answering():
            async with self._engine.connect() as connection:
                row = (await connection.execute(_FIND, {"key_hash": key_hash})).one_or_none()
        return (row.tenant, row.user_id) if row else None

    async def list(self, tenant: str | None) -> list[KeyRecord]:
        query = select(api_keys).order_by(api_keys.c.created_at)
        if tenant is not None:
            query = query.where(api_keys.c.tenant == tenant)
        with answering():
            async with self._engine.connect() as connection:
                rows = (await connection.execute(query)).all()
        return [KeyRecord(r.id, r.tenant, r.user_id, r.hint, r.created_at, r.revoked_at) for r in rows]

    async def revoke(self, key_id: str) -> bool:
        """Whether there was such a key and it was not revoked before."""
        statement = (
            update(api_keys)
            .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
            .values(revoked_at=func.now())
        )
        with answering():
            async with self._engine.connect() as connection:
                result = await connection.execute(statement)
        return result.rowcount == 1
