"""Users who are to be erased, or were."""

from datetime import datetime
from functools import partial
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.ids import new_id
from runstream.storage.database import ask, tell
from runstream.storage.statements import erasing

_BATCH = 1000
"""Rows in which a pseudonym is put with one statement."""


class Erasure(NamedTuple):
    """`user` is there until it is done, and `runs` is how many were found to be deleted so far. What was made after
    `asked_at` is not erased."""

    id: str
    tenant: str
    user: str | None
    runs: int
    asked_at: datetime
    done_at: datetime | None


class ErasureStore:
    """What carries an erasure out takes the sweep's rights. All raise Unavailable."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._ask = partial(ask, engine)
        self._tell = partial(tell, engine)

    async def ask(self, tenant: str, user: str) -> Erasure:
        """Have a user erased, whatever dies, as of now; their keys are revoked with it.

        Asked again while it is under way, it is the same one, as of then.
        """
        given = {"whose": [tenant], "id": new_id("era"), "tenant": tenant, "user": user}
        return Erasure(*(await self._ask(erasing.ASK, **given))[0])

    async def get(self, tenant: str, erasure_id: str) -> Erasure | None:
        rows = await self._ask(erasing.GET, whose=[tenant], tenant=tenant, id=erasure_id)
        return Erasure(*rows[0]) if rows else None

    async def open(self, *, beyond: str, limit: int) -> list[Erasure]:
        """Those that are not done, in order, from `beyond` on; an empty one is before all."""
        return [Erasure(*row) for row in await self._ask(erasing.OPEN, beyond=beyond, most=limit)]

    async def count(self, erasure: Erasure, runs: int) -> None:
        """So many more were found."""
        await self._tell(erasing.COUNT, tenant=erasure.tenant, id=erasure.id, more=runs)

    async def left(self, erasure: Erasure) -> bool:
        """Whether any run of the user's is there that is to go, in Postgres or in Redis."""
        given = {"tenant": erasure.tenant, "user": erasure.user, "before": erasure.asked_at}
        return bool((await self._ask(erasing.LEFT, **given))[0].left)

    async def pseudonymise(self, erasure: Erasure) -> None:
        """Put the erasure's id in the place of the user's, wherever the user is named beside runs."""
        given = {"tenant": erasure.tenant, "user": erasure.user, "pseudonym": erasure.id, "most": _BATCH}
        for statement in erasing.PSEUDONYMISE:
            while await self._tell(statement, **given) == _BATCH:
                pass

    async def done(self, erasure: Erasure) -> None:
        """Nothing of the user's is there: they are not named here either. Not so where it was asked for anew."""
        await self._tell(erasing.DONE, tenant=erasure.tenant, id=erasure.id, asked_at=erasure.asked_at)
