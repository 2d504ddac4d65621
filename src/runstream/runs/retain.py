"""Remove content of runs that has been kept for as long as its tenant wants it to be."""

import time

import structlog

from runstream.domain.retention import Retention
from runstream.storage.retention import RetentionStore

_INTERVAL = 60.0
"""Seconds from one look at all tenants to the next."""
_TENANTS = 100
_BATCH = 200
"""Runs that one statement removes content from."""
_BATCHES = 20
"""Of a tenant at a time."""

log = structlog.get_logger(__name__)


class Retain:
    """A chore: who comes second to a tenant finds nothing to do."""

    def __init__(self, store: RetentionStore, retention: Retention, *, interval: float = _INTERVAL) -> None:
        self._store = store
        self._retention = retention
        self._interval = interval
        self._next = 0.0

    async def __call__(self) -> None:
        """Look, if it is time to. Raises Unavailable."""
        if not self._retention.any or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._interval
        beyond, more = "", True
        while more:
            tenants = await self._store.tenants(beyond=beyond, limit=_TENANTS)
            await self._remove(tenants)
            beyond, more = (tenants or [""])[-1], len(tenants) == _TENANTS

    async def _remove(self, tenants: list[str]) -> None:
        kept = {tenant: self._retention.of(tenant) for tenant in tenants}
        for tenant, kind in await self._store.due(kept):
            removed = 0
            for _ in range(_BATCHES):
                came = await self._store.remove(tenant, kind, kept[tenant][kind], limit=_BATCH)
                removed += came
                if came < _BATCH:
                    break
            log.info("content_removed", tenant=tenant, kind=kind, runs=removed)
