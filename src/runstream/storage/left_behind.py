"""What crashes left behind, as the sweep finds it."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.run import KeptAnswer, Priority
from runstream.storage.database import ask
from runstream.storage.rows import kept_answer
from runstream.storage.statements import sweeping


class Lapsed(NamedTuple):
    run_id: str
    tenant: str
    attempt: int
    max_attempts: int
    queue: str
    priority: Priority
    cancel_requested: bool
    kept: KeptAnswer | None
    shared: bool
    """Its answer is of another run's call."""


class Queued(NamedTuple):
    run_id: str
    tenant: str
    attempt: int
    queue: str
    priority: Priority


class LeftBehind:
    """All raise Unavailable."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._ask = partial(ask, engine)

    async def lapsed(self, limit: int) -> list[Lapsed]:
        """Runs whose worker's lease has run out, by turns of their tenants."""
        rows = await self._ask(sweeping.LAPSED, most=limit)
        return [
            Lapsed(
                run_id=row.id,
                tenant=row.tenant,
                attempt=row.attempt,
                max_attempts=row.max_attempts,
                queue=row.queue,
                priority=Priority(row.priority),
                cancel_requested=row.cancel_requested,
                kept=kept_answer(row.provider, row.provider_model, row.response_id),
                shared=bool(row.shared),
            )
            for row in rows
        ]

    async def unread(self, limit: int) -> list[KeptAnswer]:
        """Answers that providers go on with for nobody, each told once."""
        return [KeptAnswer(*row) for row in await self._ask(sweeping.UNREAD, most=limit)]

    async def tenants_waiting(self, *, beyond: str, limit: int) -> list[str]:
        """Tenants that have queued runs, in order, from `beyond` on; an empty one is before all."""
        return [row.tenant for row in await self._ask(sweeping.WAITING, beyond=beyond, most=limit)]

    async def stranded(self, tenants: Sequence[str], *, overdue: float, limit: int) -> list[Queued]:
        """Queued runs whose job should have been taken up `overdue` seconds ago; they count as enqueued anew.

        They are taken by turns of these tenants, so that none waits for as many as another has.
        Their job may be lost (a crash between commit and enqueue, an emptied Redis) or may only be waiting.
        """
        rows = await self._ask(sweeping.STRANDED, of_tenants=tenants, seconds=timedelta(seconds=overdue), most=limit)
        return [Queued(row.id, row.tenant, row.attempt, row.queue, Priority(row.priority)) for row in rows]

    async def stop(self, tenants: Sequence[str]) -> list[tuple[str, str]]:
        """Ask for the end of what runs of these tenants, where that is wanted; answers each run and its worker."""
        return [(row.id, row.worker) for row in await self._ask(sweeping.STOP, of_tenants=tenants)]
