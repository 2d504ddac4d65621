"""May one more run wait?"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from runstream.domain.errors import QueueFull, TooManyQueued, Unavailable
from runstream.storage.lists import AllRuns

_FRESH = 1.0
"""Seconds after which queued runs are counted anew, while requests go on."""
_PAUSE = 0.1
"""Seconds, at least, from one count to the next: whoever is to be refused waits for it."""
_RETRY_AFTER = 2.0

log = structlog.get_logger(__name__)


class Backlog:
    """Bounds the runs that wait in this process's queue: a tenant's, and all.

    What was counted in Postgres counts together with what this process has accepted since, so a request costs a look
    at two numbers, and runs that come to one process pass no bound, however many come at once. Several processes pass
    it by no more than what the others accept between two counts, in a second. Nobody is refused by an old count, but
    a new one may count those twice that are being written meanwhile: as many as there are connections to Postgres.
    """

    def __init__(self, runs: AllRuns, queue: str, *, most: int, most_per_tenant: int) -> None:
        self._runs = runs
        self._queue = queue
        self._most = most
        self._most_per_tenant = most_per_tenant
        self._counted: Counter[str] = Counter()
        self._since: Counter[str] = Counter()
        """Of each tenant: accepted since the count began, or about to be."""
        self._pending: Counter[str] = Counter()
        self._began = 0.0
        self._counting: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def room(self, tenant: str) -> AsyncIterator[None]:
        """Make the run within. Raises TooManyQueued, QueueFull."""
        if time.monotonic() - self._began > _FRESH:
            self._count()
        if self._refusal(tenant):
            await self._next_count()
            if refusal := self._refusal(tenant):
                raise refusal
        self._since[tenant] += 1
        self._pending[tenant] += 1
        try:
            yield
        finally:
            self._pending[tenant] -= 1

    def _refusal(self, tenant: str) -> TooManyQueued | QueueFull | None:
        if self._counted[tenant] + self._since[tenant] >= self._most_per_tenant:
            return TooManyQueued(retry_after=_RETRY_AFTER)
        if self._counted.total() + self._since.total() >= self._most:
            return QueueFull(retry_after=_RETRY_AFTER)
        return None

    async def _next_count(self) -> None:
        """Wait for a count that begins from now on."""
        if self._counting is not None:
            await asyncio.shield(self._counting)
        await asyncio.shield(self._count())

    def _count(self) -> asyncio.Task[None]:
        """Begin to count, unless that is under way."""
        if self._counting is None:
            self._counting = asyncio.create_task(self._take_count())
        return self._counting

    async def _take_count(self) -> None:
        try:
            await asyncio.sleep(self._began + _PAUSE - time.monotonic())
            self._began = time.monotonic()
            earlier = self._since - self._pending
            self._counted = Counter(await self._runs.queued(self._queue))
            self._since -= earlier
        except Unavailable as error:
            log.warning("queue_not_counted", error=error.message)
        finally:
            self._counting = None
