"""Make, replace and revoke API keys."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from runstream.access.secrets import HINT, hash_key, new_key
from runstream.domain.audit import Action, Actor
from runstream.domain.errors import Conflict, InvalidField, MissingScope, NotFound
from runstream.domain.ids import new_id
from runstream.domain.principal import Kind, Scope, tenant_name, user_name
from runstream.storage.keys import KeyRecord, KeyStore, NewKey

MAX_OVERLAP = timedelta(days=30)
_LATEST = timedelta(days=10 * 365)
ALL = frozenset(Scope)
_DEFAULT = {Kind.OPERATOR: ALL, Kind.SERVER: ALL - {Scope.ADMIN}, Kind.USER: ALL - {Scope.ADMIN}}


class Made(NamedTuple):
    """The only time that a `key` is seen."""

    record: KeyRecord
    key: str


class Keys:
    """To who is of a `tenant`, no other tenant's keys are there; None stands for all.

    Nobody makes a key that may do more than they themselves: `granted` are the scopes that they have. What is changed
    is in the audit log, where it is said who does it, `by`.
    """

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    async def create(
        self,
        *,
        kind: Kind,
        tenant: str | None,
        user: str | None,
        scopes: Collection[Scope] | None = None,
        expires_at: datetime | None = None,
        granted: Collection[Scope] = ALL,
        by: Actor | None = None,
    ) -> Made:
        """A new key; its tenant is made if it is new. It has all scopes that such a key has, if none are named.

        Raises InvalidField, MissingScope, Conflict where the tenant is being removed, Unavailable.
        """
        _check_whose(kind, tenant, user)
        wanted = frozenset(_DEFAULT[kind] & frozenset(granted) if scopes is None else scopes)
        if not wanted:
            raise InvalidField("A key takes one scope at least.", param="scopes")
        if kind is Kind.USER and Scope.ADMIN in wanted:
            raise InvalidField("A user's key cannot have the scope 'admin'.", param="scopes")
        _check_granted(wanted, granted)
        _check_future(expires_at)
        new, key = _new()
        record = await self._store.add(
            new,
            kind=kind,
            tenant=tenant,
            user=user,
            scopes=wanted,
            expires_at=expires_at,
            entry=by
            and by.entry(Action.KEY_CREATED, tenant=tenant, target=new.id, kind=kind, user=user, scopes=sorted(wanted)),
        )
        return Made(record, key)

    async def rotate(
        self,
        tenant: str | None,
        key_id: str,
        *,
        overlap: timedelta,
        expires_at: datetime | None = None,
        granted: Collection[Scope] = ALL,
        by: Actor | None = None,
    ) -> Made:
        """A key in the place of another, which goes on for the length of `overlap`, 30 days at most.

        Raises InvalidField, MissingScope, Conflict, NotFound, Unavailable.
        """
        if not timedelta() <= overlap <= MAX_OVERLAP:
            raise InvalidField(f"An overlap is of {MAX_OVERLAP.days} days at most.", param="overlap")
        _check_future(expires_at)
        old = await self._store.get(tenant, key_id)
        if old is None:
            raise NotFound("There is no such key.")
        _check_granted(old.scopes, granted)
        new, key = _new()
        entry = by and by.entry(
            Action.KEY_ROTATED, tenant=old.tenant, target=key_id, to=new.id, overlap=overlap.total_seconds()
        )
        record = await self._store.rotate(tenant, key_id, new, overlap=overlap, expires_at=expires_at, entry=entry)
        if record is None:
            raise Conflict("The key is revoked, has expired, or was rotated already: rotate the one that replaced it.")
        return Made(record, key)

    async def revoke(self, tenant: str | None, key_id: str, *, by: Actor | None = None) -> None:
        """Raises NotFound where there is no such key in use, and Unavailable."""
        old = await self._store.get(tenant, key_id)
        entry = by.entry(Action.KEY_REVOKED, tenant=old.tenant, target=key_id) if by and old else None
        if old is None or not await self._store.revoke(tenant, key_id, entry=entry):
            raise NotFound("There is no such key, or it is revoked already.")

    async def page(self, tenant: str, *, before: str | None, limit: int) -> Sequence[KeyRecord]:
        return await self._store.page(tenant, before=before, limit=limit)

    async def all(self, tenant: str | None) -> Sequence[KeyRecord]:
        return await self._store.all(tenant)

    async def has_tenant(self, tenant: str) -> bool:
        return await self._store.has_tenant(tenant)


def _check_whose(kind: Kind, tenant: str | None, user: str | None) -> None:
    if kind is Kind.OPERATOR:
        if tenant is not None or user is not None:
            raise InvalidField("An operator's key is of no tenant and no user.", param="kind")
        return
    if tenant is None:
        raise InvalidField(f"A {kind}'s key names its tenant.", param="tenant")
    tenant_name(tenant)
    if user is not None:
        user_name(user)
    elif kind is Kind.USER:
        raise InvalidField("A user's key names its user.", param="user")


def _check_granted(wanted: Collection[Scope], granted: Collection[Scope]) -> None:
    for scope in sorted(wanted):
        if scope not in granted:
            raise MissingScope(f"Your key cannot give the scope '{scope}', which it does not have.", param=scope)


def _check_future(expires_at: datetime | None) -> None:
    now = datetime.now(UTC)
    if expires_at is not None and not now < expires_at < now + _LATEST:
        raise InvalidField("A key expires in the future, within ten years.", param="expires_at")


def _new() -> tuple[NewKey, str]:
    key = new_key()
    return NewKey(new_id("key"), hash_key(key), key[:HINT]), key
