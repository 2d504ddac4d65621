"""Find what is counted of limits and is not so any more: a process died, or Redis was away, before it was told."""

import time
from datetime import UTC, datetime, timedelta

import structlog

from runstream.counters.book import Book
from runstream.metrics import SWEEPS_FOUND
from runstream.storage.budgets import BudgetStore

_INTERVAL = 10.0
"""Seconds from one look to the next, of all processes together."""
_SETTLED = timedelta(seconds=5)
"""By then the end of a run has been counted, or will not be."""
_WRITTEN = timedelta(minutes=1)
"""By then the row of a reservation is there, or will not be; one that is later still finds another epoch."""

log = structlog.get_logger(__name__)


class Reconcile:
    """Looks only at what has been reserved for some seconds, and touches nothing that is in order.

    A tenant's counters that are wrong are forgotten, and so read anew from Postgres by who asks for them next: however
    they went wrong, that is one way to mend them.
    """

    def __init__(self, book: Book, budgets: BudgetStore, *, interval: float = _INTERVAL) -> None:
        self._book = book
        self._budgets = budgets
        self._interval = interval
        self._next = 0.0

    async def __call__(self) -> None:
        """Look, if it is time to. Raises Unavailable, Away."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._interval
        if await self._book.first("limits", self._interval / 2):
            async for tenant in self._book.tenants():
                if await self._mend(tenant):
                    SWEEPS_FOUND.labels("limits").inc()
                    log.warning("limits_forgotten", tenant=tenant)

    async def _mend(self, tenant: str) -> bool:
        now = datetime.now(UTC)
        epoch, kept = await self._book.open_runs(tenant)
        if epoch and epoch != await self._budgets.epoch(tenant):  # runs were made while Redis was away
            return await self._book.forget(tenant, epoch)
        reserved = {run.run_id: (run, at) for run, at in kept if now - at > _SETTLED}
        if not reserved:
            return False
        ended = await self._budgets.standing(tenant, list(reserved), now - _SETTLED)
        wrong = {
            run_id: run.settled for run_id, (run, at) in reserved.items() if ended.get(run_id, now - at > _WRITTEN)
        }
        return bool(wrong) and await self._book.forget(tenant, epoch, wrong)
