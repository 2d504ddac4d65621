"""The sweep: what a crash left behind is found in Postgres and mended."""

import asyncio
import random
from collections.abc import Mapping

import structlog
from redis.exceptions import RedisError

from runstream.domain.errors import Unavailable
from runstream.domain.run import Status
from runstream.metrics import LAPSED, STRANDED
from runstream.queue.enqueue import JobQueue
from runstream.runs.finish import end_unwritten
from runstream.storage.leases import LeaseStore
from runstream.storage.runs import Lapsed, RunStore
from runstream.stream.log import TokenLog

_LIMIT = 100
"""Runs of each kind that one sweep takes on; the next one follows soon."""
_OVERDUE = 5.0
"""Seconds after which a queued run's job is looked for again."""
_REASON = "worker_lost"
_FORGET = 3600.0
"""Seconds that the row of a dead worker is kept."""

log = structlog.get_logger(__name__)


class Sweep:
    """Runs in every worker. Each change is guarded, so sweeps side by side do nothing twice."""

    def __init__(
        self, *, store: RunStore, leases: LeaseStore, jobs: JobQueue, token_log: TokenLog, interval: float
    ) -> None:
        self._store = store
        self._leases = leases
        self._jobs = jobs
        self._log = token_log
        self._interval = interval

    async def run(self) -> None:
        """Sweep every `interval` seconds until cancelled."""
        while True:
            await asyncio.sleep(self._interval * random.uniform(0.8, 1.2))  # noqa: S311
            try:
                await self.once()
            except Unavailable as error:
                log.warning("sweep_failed", error=error.message)
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("sweep_failed", error=type(error).__name__)

    async def once(self) -> None:
        requeued: list[Lapsed] = []
        for lapsed in await self._store.lapsed(_LIMIT):
            if await self._take_up(lapsed, requeued):
                LAPSED.inc()
                log.warning("lease_lapsed", run_id=lapsed.run_id, tenant=lapsed.tenant, attempt=lapsed.attempt)
        for lapsed in requeued:
            await self._jobs.enqueue(lapsed.run_id, lapsed.attempt, lapsed.queue)
        for run_id, attempt, queue in await self._store.stranded(overdue=_OVERDUE, limit=_LIMIT):
            if await self._jobs.enqueue(run_id, attempt, queue):
                STRANDED.inc()
        await self._leases.forget_dead(_FORGET)

    async def _take_up(self, lapsed: Lapsed, requeued: list[Lapsed]) -> bool:
        if lapsed.cancel_requested:
            return await self._end(lapsed, Status.CANCELLED)
        if lapsed.attempt >= lapsed.max_attempts:
            error = {"code": _REASON, "message": "Each attempt's worker was lost before it was done."}
            return await self._end(lapsed, Status.FAILED, error)
        if not await self._store.requeue(lapsed.run_id, lapsed.attempt, reason=_REASON, delay=0):
            return False
        requeued.append(lapsed)
        return True

    async def _end(self, lapsed: Lapsed, status: Status, error: Mapping[str, str] | None = None) -> bool:
        return await end_unwritten(
            self._store,
            self._log,
            lapsed.run_id,
            was=Status.RUNNING,
            attempt=lapsed.attempt,
            status=status,
            reason=_REASON,
            error=error,
        )
