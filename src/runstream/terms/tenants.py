"""Create, suspend, resume and remove tenants: for operators."""

from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from runstream.domain.errors import Conflict, NotFound
from runstream.domain.principal import tenant_name
from runstream.domain.terms import Standing
from runstream.queue.control import announce_terms
from runstream.storage.terms import TenantRecord, TermsStore
from runstream.terms.copy import TermsCopy


class Tenants:
    """Every change is in effect within a second in all processes, and at once in this one.

    All raise NotFound, Conflict, Unavailable.
    """

    def __init__(self, store: TermsStore, redis: Redis, terms: TermsCopy) -> None:
        self._store = store
        self._redis = redis
        self._terms = terms

    async def create(self, tenant: str) -> TenantRecord:
        """Raises InvalidField."""
        created = await self._store.create(tenant_name(tenant))
        if created is None:
            raise Conflict("There is a tenant of this name.", param="id")
        return created

    async def get(self, tenant: str) -> TenantRecord:
        found = await self._store.get(tenant)
        if found is None:
            raise NotFound("There is no such tenant.")
        return found

    async def page(self, *, after: str, limit: int) -> Sequence[TenantRecord]:
        """By name; `after` is the last one of the page before, or empty."""
        return await self._store.page(after=after, limit=limit)

    async def suspend(self, tenant: str, *, cancel_running: bool = False) -> TenantRecord:
        """Refuse its new runs, and have its queued ones wait; what runs goes on, unless that is to be cancelled."""
        return await self._changed(tenant, await self._store.suspend(tenant, cancel_running=cancel_running))

    async def resume(self, tenant: str) -> TenantRecord:
        """Have it as if it had not been suspended: what waits goes on at the sweep's next turn."""
        return await self._changed(tenant, await self._store.resume(tenant))

    async def allow(self, tenant: str, changes: Mapping[str, Any]) -> TenantRecord:
        """Give it another `plan`, or say other `overrides` of it, of which None takes away what there is.

        Raises NotFound of a plan that is not there, too.
        """
        return await self._changed(tenant, await self._store.allow(tenant, changes))

    async def remove(self, tenant: str) -> TenantRecord:
        """Have a suspended tenant go, with all of its data: the sweep does that, whatever dies meanwhile.

        Its keys are revoked at once, and what still runs is cancelled.
        """
        return await self._changed(tenant, await self._store.remove(tenant))

    async def _changed(self, tenant: str, changed: TenantRecord | None) -> TenantRecord:
        if changed is None:
            found = await self.get(tenant)
            if found.standing is Standing.REMOVING:
                raise Conflict("The tenant is being removed.")
            raise Conflict("Suspend the tenant first: its runs are then refused, and nothing of it is lost yet.")
        await self._terms.read()
        await announce_terms(self._redis)
        return changed
