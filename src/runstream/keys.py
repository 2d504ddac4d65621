"""What the key commands do."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runstream.api.auth import hash_key, new_key
from runstream.domain.errors import InvalidField, NotFound
from runstream.domain.ids import new_id
from runstream.settings import load
from runstream.storage.command import opened
from runstream.storage.keys import KeyStore

_HINT = 8
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_USER_MAX = 128


async def create(tenant: str, user: str) -> str:
    """A new key for `user` of `tenant`, which is made if it is new."""
    if not _TENANT.fullmatch(tenant):
        raise InvalidField("A tenant's name is 1 to 64 letters, digits, '_', '.' or '-'.", param="tenant")
    if not 0 < len(user) <= _USER_MAX or not user.isprintable():
        raise InvalidField(f"A user's name is 1 to {_USER_MAX} printable characters.", param="user")
    key = new_key()
    async with _store() as store:
        await store.add(key_id=new_id("key"), tenant=tenant, user=user, key_hash=hash_key(key), hint=key[:_HINT])
    return key


async def listed(tenant: str | None) -> list[str]:
    """A line for each key."""
    async with _store() as store:
        records = await store.list(tenant)
    return [
        f"{r.id}  {r.hint}...  {r.tenant}  {r.user}  {r.created_at:%Y-%m-%d %H:%M}"
        + (f"  revoked {r.revoked_at:%Y-%m-%d %H:%M}" if r.revoked_at else "")
        for r in records
    ]


async def revoke(key_id: str) -> None:
    """Raises NotFound where there is no such key in use."""
    async with _store() as store:
        if not await store.revoke(key_id):
            raise NotFound("There is no such key, or it is revoked already.")


@asynccontextmanager
async def _store() -> AsyncIterator[KeyStore]:
    settings = load()
    async with opened(settings.database_url.get_secret_value(), settings.database_timeout) as engine:
        yield KeyStore(engine)
