"""Create, suspend, resume and remove tenants: for operators."""

from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from runstream.domain.audit import Action, Actor
from runstream.domain.errors import Conflict, NotFound
from runstream.domain.principal import tenant_name
from runstream.domain.terms import Standing
from runstream.queue.control import announce_terms
from runstream.storage.terms import TenantRecord, TermsStore
from runstream.terms.copy import TermsCopy


class Tenants:
    """Every change is in effect within a second in all processes, and at once in this one.

    Who changes anything is in the audit log. All raise NotFound, Conflict, Unavailable.
    """

    def __init__(self, store: TermsStore, redis: Redis, terms: TermsCopy) -> None:
        self._store = store
        self._redis = redis
        self._terms = terms

    async def create(self, tenant: str, *, by: Actor) -> TenantRecord:
        """Raises InvalidField."""
        entry = by.entry(Action.TENANT_CREATED, tenant=tenant, target=tenant)
        created = await self._store.create(tenant_name(tenant), entry=entry)
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

    async def suspend(self, tenant: str, *, cancel_running: bool = False, by: Actor) -> TenantRecord:
        """Refuse its new runs, and have its queued ones wait; what runs goes on, unless that is to be cancelled."""
        entry = by.entry(
            Action.TENANT_SUSPENDED, tenant=tenant, target=tenant, cancel_running=True if cancel_running else None
        )
        return await self._kept(tenant, await self._store.suspend(tenant, cancel_running=cancel_running, entry=entry))

    async def resume(self, tenant: str, *, by: Actor) -> TenantRecord:
        """Have it as if it had not been suspended: what waits goes on at the sweep's next turn."""
        entry = by.entry(Action.TENANT_RESUMED, tenant=tenant, target=tenant)
        return await self._kept(tenant, await self._store.resume(tenant, entry=entry))

    async def allow(self, tenant: str, changes: Mapping[str, Any], *, by: Actor) -> TenantRecord:
        """Give it another `plan`, or say other `overrides` of it, of which None takes away what there is.

        Raises NotFound of a plan that is not there, too.
        """
        entry = by.entry(
            Action.TENANT_CHANGED, tenant=tenant, target=tenant, changed=sorted(changes), plan=changes.get("plan")
        )
        return await self._kept(tenant, await self._store.allow(tenant, changes, entry=entry))

    async def remove(self, tenant: str, *, by: Actor) -> TenantRecord:
        """Have a suspended tenant go, with all of its data: the sweep does that, whatever dies meanwhile.

        Its keys are revoked at once, and what still runs is cancelled.
        """
        entry = by.entry(Action.TENANT_REMOVAL_REQUESTED, tenant=tenant, target=tenant)
        removing = await self._store.remove(tenant, entry=entry) or await self.get(tenant)
        if removing.standing is not Standing.REMOVING:
            raise Conflict("Suspend the tenant first: its runs are then refused, and nothing of it is lost yet.")
        return await self._in_effect(removing)

    async def _kept(self, tenant: str, changed: TenantRecord | None) -> TenantRecord:
        """The tenant, changed or as it was already."""
        found = changed or await self.get(tenant)
        if found.standing is Standing.REMOVING:
            raise Conflict("The tenant is being removed.")
        return await self._in_effect(found)

    async def _in_effect(self, tenant: TenantRecord) -> TenantRecord:
        await self._terms.read()
        await announce_terms(self._redis)
        return tenant
