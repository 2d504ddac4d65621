"""Cancel what runs of suspended tenants, where that was asked for."""

from collections.abc import Callable

import structlog
from redis.asyncio import Redis

from runstream.domain.terms import Terms
from runstream.queue.control import announce_cancel
from runstream.storage.left_behind import LeftBehind

log = structlog.get_logger(__name__)


class Halt:
    """A part of the sweep: so a run that was being taken up when its tenant was suspended is found as well."""

    def __init__(self, left: LeftBehind, redis: Redis, terms: Callable[[], Terms]) -> None:
        self._left = left
        self._redis = redis
        self._terms = terms

    async def __call__(self) -> None:
        """Each run once. Asks nobody anything where there is no such tenant. Raises Unavailable."""
        if tenants := self._terms().cancelling:
            for run_id, worker in await self._left.stop(tenants):
                log.info("run_halted", run_id=run_id)
                await announce_cancel(self._redis, worker, run_id)
