"""Runs that are to be deleted, and those that were not long ago."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.principal import Owner
from runstream.storage.database import ask, tell
from runstream.storage.statements import deleting


class Deletion(NamedTuple):
    """`attempt` is the run's last one; None while its row is there. `cleared`: Redis has nothing of it either."""

    run_id: str
    tenant: str
    attempt: int | None
    cleared: bool = False


class DeletionStore:
    """What is told of all tenants takes the sweep's rights. All raise Unavailable."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._ask = partial(ask, engine)
        self._tell = partial(tell, engine)

    async def ask(self, owner: Owner, run_id: str) -> Deletion | None:
        """Have the run deleted, whatever dies; how far that is. None where it is not there, or not the owner's."""
        given = {"whose": [owner.tenant], **owner._asdict(), "run_id": run_id}
        rows = await self._ask(deleting.ASK, **given) or await self._ask(deleting.ASKED, **given)
        return Deletion(*rows[0]) if rows else None

    async def ask_all(self, tenant: str, user: str, *, before: datetime, limit: int) -> int:
        """Have some of the user's runs deleted that were made before; how many that are."""
        return len(
            await self._ask(deleting.ASK_ALL, whose=[tenant], tenant=tenant, user=user, before=before, most=limit)
        )

    async def open(self, *, beyond: str, limit: int) -> list[Deletion]:
        """What is left to be done, in order, from `beyond` on; an empty one is before all."""
        return [Deletion(*row) for row in await self._ask(deleting.OPEN, beyond=beyond, most=limit)]

    async def delete(self, asked: Sequence[Deletion]) -> list[Deletion]:
        """Take away the rows of those that have ended; those are answered.

        All goes that Postgres has of them but what they cost.
        """
        return [Deletion(*row) for row in await self._ask(deleting.DELETE, **_named(asked))]

    async def cleared(self, gone: Sequence[Deletion]) -> None:
        """Redis has nothing of them any more."""
        await self._tell(deleting.CLEARED, **_named(gone))

    async def forget(self, older: float) -> None:
        """Some of those that were cleared more than so many seconds ago."""
        await self._tell(deleting.FORGET, kept=timedelta(seconds=older))


def _named(each: Sequence[Deletion]) -> dict[str, Any]:
    return {"whose": sorted({one.tenant for one in each}), "run_ids": [one.run_id for one in each]}
