"""What the commands of keys and tokens do."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from runstream.access import token_secrets
from runstream.access.keys import Keys
from runstream.domain.durations import in_seconds
from runstream.domain.principal import Kind, Scope
from runstream.settings import load
from runstream.storage.command import opened
from runstream.storage.keys import KeyRecord, KeyStore
from runstream.storage.token_secrets import TokenSecretStore
from runstream.terminal import at_terminal


async def create(
    tenant: str | None,
    user: str | None,
    *,
    kind: Kind = Kind.USER,
    scopes: Collection[Scope] | None = None,
    expires: str | None = None,
) -> str:
    """A new key; its tenant is made if it is new. See Keys.create."""
    async with _keys() as keys:
        made = await keys.create(
            kind=kind, tenant=tenant, user=user, scopes=scopes, expires_at=_moment(expires), by=at_terminal()
        )
    return made.key


async def listed(tenant: str | None) -> list[str]:
    """A line for each key."""
    async with _keys() as keys:
        return [_line(record) for record in await keys.all(tenant)]


async def rotate(key_id: str, *, overlap: str, expires: str | None) -> str:
    """The key that takes its place. See Keys.rotate."""
    for_long = timedelta(seconds=in_seconds(overlap, param="overlap"))
    async with _keys() as keys:
        made = await keys.rotate(None, key_id, overlap=for_long, expires_at=_moment(expires), by=at_terminal())
    return made.key


async def revoke(key_id: str) -> None:
    """Raises NotFound where there is no such key in use."""
    async with _keys() as keys:
        await keys.revoke(None, key_id, by=at_terminal())


async def rotate_token_secret(overlap: str) -> None:
    """Have run tokens signed with a new secret. See token_secrets.rotate."""
    for_long = timedelta(seconds=in_seconds(overlap, param="overlap"))
    settings = load()
    async with opened(settings.sweep_login, settings.database_timeout) as engine:
        await token_secrets.rotate(TokenSecretStore(engine), for_long, by=at_terminal())


@asynccontextmanager
async def _keys() -> AsyncIterator[Keys]:
    settings = load()
    async with opened(settings.sweep_login, settings.database_timeout) as engine:
        yield Keys(KeyStore(engine))


def _moment(expires: str | None) -> datetime | None:
    if expires is None:
        return None
    return datetime.now(UTC) + timedelta(seconds=in_seconds(expires, param="expires"))


def _line(record: KeyRecord) -> str:
    times = {"expires": record.expires_at, "used": record.last_used_at, "revoked": record.revoked_at}
    parts = [
        record.id,
        f"{record.hint}...",
        record.tenant or "-",
        record.user or "-",
        f"{record.created_at:%Y-%m-%d %H:%M}",
        record.kind,
        ",".join(sorted(record.scopes)),
        *(f"{name} {at:%Y-%m-%d %H:%M}" for name, at in times.items() if at),
        *([f"replaced by {record.replaced_by}"] if record.replaced_by else []),
    ]
    return "  ".join(parts)
