"""Encrypt what is there anew: data keys with another master key, and content with other data keys.

Beside running processes: a row that is changed in the meantime, or that somebody else has, is left for the next pass.
Each batch is one statement, so whatever this dies of, all rows are readable and the rest is found again.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.crash_points import Point, reached
from runstream.domain.errors import ContentUnreadable
from runstream.domain.ids import new_id
from runstream.sealing.data_key import new_key
from runstream.sealing.master_keys import MasterKeys
from runstream.storage.content import Content, seal
from runstream.storage.data_keys import LONGEST, DataKeys
from runstream.storage.database import ask
from runstream.storage.statements import sealing
from runstream.storage.statements.sealing import SEALED, SealedTable

_ROWS = 20
"""Of a batch: each may have megabytes."""
_BATCH_BYTES = 32_000_000
"""Of what a batch writes, but for a single row: Postgres takes eight times as much."""
_PASSES = 20
"""Over all tables, of which the last one finds nothing."""
GRACE = timedelta(seconds=2 * LONGEST)
"""After which no process encrypts with another data key than the newest one: twice as long as it may trust its copy."""


@dataclass(slots=True)
class Resealed:
    """What became of it. `rows` were encrypted anew; `unreadable` ones could not be opened, and are as they were.

    `busy` says that rows were still being changed by others at the end. `kept` are the tenants whose older data keys
    may still be encrypted with by a process, until the time of `again`, or are needed for what could not be opened.
    """

    rows: int = 0
    unreadable: int = 0
    busy: bool = False
    dropped: int = 0
    kept: int = 0
    again: datetime | None = None


async def rewrap(engine: AsyncEngine, masters: MasterKeys) -> int:
    """Wrap all data keys by the master key that is used; answers how many were not. No content is touched.

    Raises ContentUnreadable where a master key is missing: what came before it is done. Raises Unavailable.
    """
    done = 0
    while rows := await ask(engine, sealing.WRAPPED_BY_OTHERS, used=masters.used):
        for row in rows:
            key = masters.unwrap(row.tenant, row.id, row.master, row.wrapped)
            wrapped = masters.wrap(row.tenant, row.id, key)
            named = {"of": row.tenant, "key_id": row.id, "was": row.master}
            done += len(await ask(engine, sealing.REWRAP, **named, used=masters.used, rewrapped=wrapped))
    return done


async def pending(engine: AsyncEngine) -> Mapping[str, int]:
    """Of how many rows some content is not encrypted with their tenant's newest data key, by table."""
    found: Counter[str] = Counter()
    for table in SEALED:
        found[table.name] = 0
        async for wanted in _windows(engine, table):
            found[table.name] += len(wanted)
    return found


class Resealing:
    """Raises Unavailable; to be begun again then, or after a crash: it goes on where it was."""

    def __init__(
        self, engine: AsyncEngine, masters: MasterKeys, *, grace: timedelta = GRACE, rows: int = _ROWS
    ) -> None:
        self._engine = engine
        self._ask = partial(ask, engine)
        self._masters = masters
        self._keys = DataKeys(engine, masters)
        self._content = Content(self._keys)
        self._grace = grace
        self._rows = rows
        self._unreadable: set[str] = set()
        """Tenants that have rows which could not be opened."""

    async def new_keys(self) -> int:
        """A new data key for each tenant all of whose content is encrypted with the last one; answers how many."""
        tenants = await self._ask(sealing.COMPLETE)
        for row in tenants:
            key_id = new_id("dk")
            wrapped = self._masters.wrap(row.tenant, key_id, new_key())
            made = {"new_id": key_id, "new_master": self._masters.used, "new_wrapped": wrapped}
            await self._ask(sealing.MAKE, of=row.tenant, **made)
        return len(tenants)

    async def content(self) -> AsyncIterator[Resealed]:
        """Encrypt all content with its tenant's newest data key; tells how far it is, and at last what it came to."""
        done = Resealed()
        for _ in range(_PASSES):
            began = (await self._ask(sealing.NOW))[0].now
            found, done.unreadable = 0, 0
            for table in SEALED:
                async for wanted in _windows(self._engine, table):
                    found += len(wanted)
                    for start in range(0, len(wanted), self._rows):
                        resealed, unreadable = await self._batch(table, wanted[start : start + self._rows])
                        done.rows, done.unreadable = done.rows + resealed, done.unreadable + unreadable
                        reached(Point.RESEAL_WRITTEN)
                        yield done
            if found == done.unreadable:
                await self._drop_older(began, done)
                yield done
                return
        done.busy = True
        yield done

    async def _batch(self, table: SealedTable, keys: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """How many rows were encrypted anew, and how many could not be opened."""
        anew, unreadable = [], 0
        for row in await self._ask(table.READ, keys=keys):
            try:
                anew.append(await self._anew(table, row))
            except ContentUnreadable:
                self._unreadable.add(row.tenant)
                unreadable += 1
        written = [await self._ask(table.WRITE, rows=part) for part in _parts(anew)]
        return sum(map(len, written)), unreadable

    async def _anew(self, table: SealedTable, row: Row[Any]) -> dict[str, Any]:
        part, tenant = table.part, row.tenant
        found = {name: row._mapping[name] for name in part.columns}
        opened = await self._content.opened(part, tenant, row.row, found)
        key = await (self._keys.named(tenant, row.data_key) if row.data_key else self._keys.newest(tenant))
        values: dict[str, Any] = {}
        for name in part.columns:
            value = opened[name]
            values[name] = seal(key, part, tenant, row.row, name, value) if value else value
            if isinstance(values[name], bytes):
                values[name] = f"\\x{values[name].hex()}"
        return {**{name: row._mapping[name] for name in table.key}, "version": row.version, **values}

    async def _drop_older(self, began: datetime, done: Resealed) -> None:
        """Data keys that nothing is encrypted with, as a pass has seen that began when none encrypted any more."""
        but = sorted(self._unreadable)
        done.dropped = len(await self._ask(sealing.DROP_OLDER, before=began - self._grace, but=but))
        await self._ask(sealing.COMPLETED, but=but)
        kept = (await self._ask(sealing.KEPT))[0]
        done.kept, done.again = kept.tenants, kept.made_at and kept.made_at + self._grace


async def _windows(engine: AsyncEngine, table: SealedTable) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
    """The keys of rows that are to be encrypted anew, from all rows, some hundreds at a time."""
    after: Mapping[str, Any] = table.first
    while rows := await ask(engine, table.LOOK, **{f"after_{name}": value for name, value in after.items()}):
        keys = [{name: row._mapping[name] for name in table.key} for row in rows]
        after = keys[-1]
        yield [key for key, row in zip(keys, rows, strict=True) if row.wanted]


def _parts(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    part: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        bytes_ = sum(len(value) for value in row.values() if isinstance(value, str))
        if part and size + bytes_ > _BATCH_BYTES:
            yield part
            part, size = [], 0
        part.append(row)
        size += bytes_
    if part:
        yield part
