"""Tenants' data keys: in Postgres wrapped, in each process unwrapped for as long as they are known to be there."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from sqlalchemy import bindparam, delete, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.errors import ContentUnreadable
from runstream.domain.ids import new_id
from runstream.sealing.data_key import DataKey, new_key
from runstream.sealing.master_keys import MasterKeys
from runstream.storage.database import ask
from runstream.storage.tables import data_keys
from runstream.storage.tenancy import bound

_LOOK = 30.0
"""Seconds after which a tenant's keys are looked at again, while what is known of them still serves."""
LONGEST: Final = 300.0
"""Seconds that what is known of them serves at the most."""
_TENANTS = 10_000
"""Whose keys a process keeps, at about a kilobyte each."""

_TENANT = bindparam("of", type_=data_keys.c.tenant.type)
_ALL = bound(
    select(data_keys.c.id, data_keys.c.master, data_keys.c.wrapped)
    .where(data_keys.c.tenant == _TENANT)
    .order_by(data_keys.c.made_at, data_keys.c.id)
)
_NEW = ("id", "master", "wrapped")
_MAKE_FIRST = bound(
    insert(data_keys)
    .from_select(
        ["tenant", *_NEW],
        select(_TENANT, *(bindparam(f"new_{name}", type_=data_keys.c[name].type) for name in _NEW)).where(
            ~select(literal(1)).where(data_keys.c.tenant == _TENANT).exists()
        ),
    )
    .returning(data_keys.c.id)
)
_DROP = bound(delete(data_keys).where(data_keys.c.tenant == _TENANT).returning(data_keys.c.id))

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """None stands for a key that cannot be unwrapped."""

    keys: Mapping[str, DataKey | None]
    newest: str | None
    read_at: float


class DataKeys:
    """All raise Unavailable, and ContentUnreadable where a key is not there or its master key is not given."""

    def __init__(
        self, engine: AsyncEngine, masters: MasterKeys, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = partial(ask, engine)
        self._masters = masters
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._looking: dict[tuple[str, bool], asyncio.Task[_Known]] = {}

    async def newest(self, tenant: str) -> DataKey:
        """The one that seals; made where there is none yet."""
        known = await self._current(tenant)
        if known.newest is None:
            known = await self._look(tenant, make=True)
        return _usable(known, known.newest)

    async def named(self, tenant: str, key_id: str) -> DataKey:
        known = await self._current(tenant)
        if key_id not in known.keys:  # it may be newer than what is known
            known = await self._look(tenant)
        return _usable(known, key_id)

    async def drop(self, tenant: str) -> int:
        """Make all content of a tenant unreadable for good, in all backups that have no copy of these keys too.

        Processes that know the keys let go of them within five minutes: the tenant is to be suspended first. Answers
        how many keys there were.
        """
        self._known.pop(tenant, None)
        return len(await self._ask(_DROP, whose=[tenant], of=tenant))

    async def _current(self, tenant: str) -> _Known:
        """What is known, and looked at again in the background; no call, but for the first time in a while."""
        known = self._known.get(tenant)
        if known is None:
            return await self._look(tenant)
        age = self._clock() - known.read_at
        if age >= LONGEST:
            return await self._look(tenant)
        if age >= _LOOK:
            self._begin(tenant, make=False)
        return known

    async def _look(self, tenant: str, *, make: bool = False) -> _Known:
        return await asyncio.shield(self._begin(tenant, make=make))

    def _begin(self, tenant: str, *, make: bool) -> asyncio.Task[_Known]:
        """One look at a time for all who ask."""
        looking = self._looking.get((tenant, make))
        if looking is None:
            looking = asyncio.create_task(self._read(tenant, make))
            self._looking[tenant, make] = looking
            looking.add_done_callback(partial(self._looked, (tenant, make)))
        return looking

    def _looked(self, what: tuple[str, bool], task: asyncio.Task[_Known]) -> None:
        del self._looking[what]
        if not task.cancelled() and (error := task.exception()):
            log.warning("data_keys_not_looked_at", tenant=what[0], error=type(error).__name__)

    async def _read(self, tenant: str, make: bool) -> _Known:
        read_at = self._clock()
        if make:
            key_id = new_id("dk")
            wrapped = self._masters.wrap(tenant, key_id, new_key())
            made = {"new_id": key_id, "new_master": self._masters.used, "new_wrapped": wrapped}
            await self._ask(_MAKE_FIRST, whose=[tenant], of=tenant, **made)
        rows = await self._ask(_ALL, whose=[tenant], of=tenant)
        before = self._known.pop(tenant, None)
        had = before.keys if before else {}
        keys = {row.id: had.get(row.id) or self._unwrapped(tenant, row.id, row.master, row.wrapped) for row in rows}
        self._known[tenant] = _Known(keys, rows[-1].id if rows else None, read_at)
        while len(self._known) > _TENANTS:
            del self._known[next(iter(self._known))]
        return self._known[tenant]

    def _unwrapped(self, tenant: str, key_id: str, master: str, wrapped: bytes) -> DataKey | None:
        try:
            return DataKey(key_id, self._masters.unwrap(tenant, key_id, master, wrapped))
        except ContentUnreadable:
            log.error("data_key_not_unwrapped", tenant=tenant, data_key=key_id, master_key=master)  # noqa: TRY400
            return None


def _usable(known: _Known, key_id: str | None) -> DataKey:
    key = known.keys.get(key_id or "")
    if key is None:
        raise ContentUnreadable
    return key
