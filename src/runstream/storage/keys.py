"""Tenants and their API keys. A key itself is never stored, only its hash."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Interval,
    LargeBinary,
    Row,
    String,
    any_,
    bindparam,
    extract,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.audit import Action, Entry
from runstream.domain.errors import Conflict
from runstream.domain.principal import Kind, Principal, Scope
from runstream.storage.audit import ask_noting
from runstream.storage.database import ask
from runstream.storage.tables import api_keys, tenants
from runstream.storage.tenancy import bound


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """`hint` is the key's first characters: enough to recognise it, too little to use it."""

    id: str
    kind: Kind
    tenant: str | None
    user: str | None
    scopes: frozenset[Scope]
    hint: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    replaced_by: str | None


@dataclass(frozen=True, slots=True)
class NewKey:
    id: str
    hash: bytes
    hint: str


Name = bytes | str
"""A key's hash, or its id."""


class Found(NamedTuple):
    """A key that is good now, for `seconds` more if that is bounded. `version` is another once it was changed."""

    hash: bytes
    principal: Principal
    seconds: float | None
    version: datetime | None


_GOOD = (api_keys.c.revoked_at.is_(None), or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > func.now()))
_SHOWN = [column for column in api_keys.c if column.name not in {"hash", "changed_at"}]
_HASHES = bindparam("hashes", type_=ARRAY(LargeBinary))
_IDS = bindparam("ids", type_=ARRAY(String))
_SECONDS = bindparam("seconds", type_=Interval)
_OF: ColumnElement[bool] = or_(
    bindparam("of", type_=String).is_(None), api_keys.c.tenant == bindparam("of", type_=String)
)
"""Of one tenant, or of any."""

_FIND = select(api_keys, extract("epoch", api_keys.c.expires_at - func.now()).label("seconds")).where(
    or_(api_keys.c.hash == any_(_HASHES), api_keys.c.id == any_(_IDS)), *_GOOD
)
_CHANGED = select(api_keys.c.hash, api_keys.c.id, api_keys.c.changed_at).where(
    api_keys.c.changed_at.is_not(None), api_keys.c.changed_at > func.now() - _SECONDS
)
_GET = bound(select(*_SHOWN).where(api_keys.c.id == bindparam("key_id"), _OF))
_REVOKE = bound(
    update(api_keys)
    .where(api_keys.c.id == bindparam("key_id"), api_keys.c.revoked_at.is_(None), _OF)
    .values(revoked_at=func.now(), changed_at=func.now())
    .returning(api_keys.c.id)
)
_USED = (
    update(api_keys)
    .where(
        api_keys.c.id == any_(_IDS),
        or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < func.now() - _SECONDS),
    )
    .values(last_used_at=func.now())
    .returning(api_keys.c.id)
)


class KeyStore:
    """To a method that is given a `tenant`, no other tenant's keys are there; None stands for all.

    What is changed is changed together with its `entry` in the audit log. Methods that name no tenant, or are given
    None, need the sweep's rights. Every method raises Unavailable.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._ask = partial(ask, engine)
        self._change = partial(ask_noting, engine)

    async def add(
        self,
        new: NewKey,
        *,
        kind: Kind,
        tenant: str | None,
        user: str | None,
        scopes: Collection[Scope],
        expires_at: datetime | None = None,
        entry: Entry | None = None,
    ) -> KeyRecord:
        """Store a key, and its tenant where it is new. Raises Conflict where that is being removed."""
        if tenant is not None:
            new_tenant = upsert(tenants).values(id=tenant).on_conflict_do_nothing().returning(tenants.c.id)
            created = entry and entry.by.entry(Action.TENANT_CREATED, tenant=tenant, target=tenant)
            await self._change(bound(new_tenant), created, whose=[tenant])
            removing = tenants.c.removal_requested_at.is_not(None)
            being_removed = select(tenants.c.id).where(tenants.c.id == tenant, removing)
            if await self._ask(bound(being_removed), whose=[tenant]):
                raise Conflict("The tenant is being removed: it takes no keys until that is done.")
        values = {"kind": kind, "tenant": tenant, "user_id": user, "scopes": sorted(scopes), "expires_at": expires_at}
        row = insert(api_keys).values(**_named(new), **values).returning(*_SHOWN)
        rows = await self._change(bound(row), entry, whose=_whose(tenant))
        return _record(rows[0])

    async def find(self, names: Collection[Name]) -> list[Found]:
        """Those of the keys that are neither unknown, nor revoked, nor expired."""
        hashes = [name for name in names if isinstance(name, bytes)]
        ids = [name for name in names if isinstance(name, str)]
        return [_found(row) for row in await self._ask(_FIND, hashes=hashes, ids=ids)]

    async def changed(self, seconds: float) -> Mapping[Name, datetime]:
        """The keys, by both of their names, that were changed in the last `seconds`, with their version."""
        rows = await self._ask(_CHANGED, seconds=timedelta(seconds=seconds))
        return {name: row.changed_at for row in rows for name in (row.hash, row.id)}

    async def used(self, ids: Collection[str], seconds: float) -> None:
        """Note that keys were used now, but for those of which that was noted within `seconds`."""
        await self._ask(_USED, ids=list(ids), seconds=timedelta(seconds=seconds))

    async def get(self, tenant: str | None, key_id: str) -> KeyRecord | None:
        rows = await self._ask(_GET, whose=_whose(tenant), of=tenant, key_id=key_id)
        return _record(rows[0]) if rows else None

    async def all(self, tenant: str | None) -> Sequence[KeyRecord]:
        """In the order in which they were made."""
        query = select(*_SHOWN).order_by(api_keys.c.id)
        if tenant is not None:
            query = query.where(api_keys.c.tenant == tenant)
        return [_record(row) for row in await self._ask(bound(query), whose=_whose(tenant))]

    async def page(self, tenant: str, *, before: str | None, limit: int) -> Sequence[KeyRecord]:
        """The newest first; `before` is the id of the last one of the page before."""
        query = select(*_SHOWN).where(api_keys.c.tenant == tenant).order_by(api_keys.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(api_keys.c.id < before)
        return [_record(row) for row in await self._ask(bound(query), whose=[tenant])]

    async def rotate(
        self,
        tenant: str | None,
        key_id: str,
        new: NewKey,
        *,
        overlap: timedelta,
        expires_at: datetime | None,
        entry: Entry | None = None,
    ) -> KeyRecord | None:
        """Store another key in its place, which expires after `overlap`; None where it is not good or was rotated.

        The new one lives as long as the old one was to, where it is not said until when.
        """
        old = (
            select(api_keys).where(api_keys.c.id == key_id, api_keys.c.replaced_by.is_(None), *_GOOD).with_for_update()
        )
        if tenant is not None:
            old = old.where(api_keys.c.tenant == tenant)
        rotated = old.cte("rotated")
        ends = func.now() + literal(overlap)
        replaced = (
            update(api_keys)
            .where(api_keys.c.id == rotated.c.id)
            .values(replaced_by=new.id, expires_at=func.least(api_keys.c.expires_at, ends), changed_at=func.now())
            .cte("replaced")
        )
        lifetime = func.now() + (rotated.c.expires_at - rotated.c.created_at)
        values = {
            **{name: literal(value) for name, value in _named(new).items()},
            **{name: rotated.c[name] for name in ("kind", "tenant", "user_id", "scopes")},
            "expires_at": func.coalesce(literal(expires_at, api_keys.c.expires_at.type), lifetime),
        }
        made = insert(api_keys).from_select([*values], select(*values.values())).add_cte(replaced).returning(*_SHOWN)
        rows = await self._change(bound(made), entry, whose=_whose(tenant))
        return _record(rows[0]) if rows else None

    async def revoke(self, tenant: str | None, key_id: str, *, entry: Entry | None = None) -> bool:
        """Whether there was such a key and it was not revoked before."""
        return bool(await self._change(_REVOKE, entry, whose=_whose(tenant), of=tenant, key_id=key_id))

    async def has_tenant(self, tenant: str) -> bool:
        return bool(await self._ask(bound(select(tenants.c.id).where(tenants.c.id == tenant)), whose=[tenant]))


def _whose(tenant: str | None) -> list[str] | None:
    return None if tenant is None else [tenant]


def _named(new: NewKey) -> dict[str, Any]:
    return {"id": new.id, "hash": new.hash, "hint": new.hint}


def _found(row: Row[Any]) -> Found:
    scopes = frozenset(map(Scope, row.scopes))
    until = None if row.expires_at is None else row.expires_at.timestamp()
    principal = Principal(row.id, Kind(row.kind), row.tenant, row.user_id, scopes, until=until)
    return Found(row.hash, principal, None if row.seconds is None else float(row.seconds), row.changed_at)


def _record(row: Row[Any]) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        kind=Kind(row.kind),
        tenant=row.tenant,
        user=row.user_id,
        scopes=frozenset(map(Scope, row.scopes)),
        hint=row.hint,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
        replaced_by=row.replaced_by,
    )
