"""Remove tenants, as was asked for: a part of the sweep, so that it is done whatever dies."""

from collections.abc import Callable, Sequence

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from runstream.domain.audit import Action, Actor, Entry
from runstream.domain.terms import Terms
from runstream.queue.control import announce_terms
from runstream.storage.audit import AuditFilters, AuditStore
from runstream.storage.removal import RUNS, TABLES, RemovalStore
from runstream.storage.terms import TermsStore
from runstream.stream.log import TokenLog

_BATCH = 200
"""Rows that one statement deletes, and with a run its attempts and deliveries."""
_BATCHES = 10
"""Statements of one turn, of each tenant: the sweep has more to do."""
_KEY_REST = 60.0
"""Seconds that a revoked key is kept for: every process asks for what has changed in a shorter time, or forgets all."""

log = structlog.get_logger(__name__)


class Removal:
    def __init__(
        self,
        store: RemovalStore,
        terms_store: TermsStore,
        audit: AuditStore,
        token_log: TokenLog,
        redis: Redis,
        terms: Callable[[], Terms],
        *,
        by: Actor,
        key_rest: float = _KEY_REST,
    ) -> None:
        """`by` stands for who asked for a removal, where the audit log does not have that any more."""
        self._store = store
        self._terms_store = terms_store
        self._audit = audit
        self._log = token_log
        self._redis = redis
        self._terms = terms
        self._by = by
        self._key_rest = key_rest

    async def __call__(self) -> None:
        """Go on with all tenants that are to be removed, a bounded step each. Raises Unavailable."""
        for tenant in self._terms().removing:
            await self._remove_some(tenant)

    async def _remove_some(self, tenant: str) -> None:
        batches = 0
        for table in TABLES:
            deleted = _BATCH
            while deleted == _BATCH:
                if batches == _BATCHES:
                    return
                batches += 1
                keys = await self._store.delete(table, tenant, most=_BATCH, key_rest=self._key_rest)
                deleted = len(keys)
                if table == RUNS:
                    await self._forget_logs(keys)
        if not await self._store.empty(tenant):
            return
        if await self._terms_store.forget(tenant, entry=await self._last_entry(tenant)):
            log.info("tenant_removed", tenant=tenant)
            await announce_terms(self._redis)

    async def _last_entry(self, tenant: str) -> Entry:
        """Of the installation: the tenant's own go."""
        requested = AuditFilters(tenant=tenant, action=Action.TENANT_REMOVAL_REQUESTED, target=tenant)
        found = await self._audit.page(requested, before=None, limit=1)
        return (found[0].by if found else self._by).entry(Action.TENANT_REMOVED, tenant=None, target=tenant)

    async def _forget_logs(self, run_ids: Sequence[str]) -> None:
        try:
            await self._log.forget(run_ids)
        except (RedisError, OSError, TimeoutError) as error:  # they expire
            log.warning("logs_not_forgotten", runs=len(run_ids), error=type(error).__name__)
