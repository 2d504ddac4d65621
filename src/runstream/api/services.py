"""What the routes are given: the services, and who asks."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from redis.asyncio import Redis
from structlog.contextvars import bind_contextvars

from runstream.api.auth import KeyCheck, Principal
from runstream.domain.errors import Unauthenticated
from runstream.gateway.admission import Admission
from runstream.queue.enqueue import JobQueue
from runstream.runs.cancel import Cancel
from runstream.runs.retry import Retry
from runstream.runs.submit import Submit
from runstream.runs.watch import Watch
from runstream.storage.lists import RunLists
from runstream.storage.runs import RunStore
from runstream.storage.spend import SpendStore
from runstream.stream.hub import Hub
from runstream.webhooks.endpoints import Endpoints


@dataclass(frozen=True, slots=True)
class Services:
    missing_migration: Callable[[], Awaitable[str | None]]
    redis: Redis
    store: RunStore
    lists: RunLists
    spend: SpendStore
    admission: Admission
    keys: KeyCheck
    jobs: JobQueue
    queue: str
    hub: Hub
    submit: Submit
    cancel: Cancel
    retry: Retry
    watch: Watch
    endpoints: Endpoints


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Given = Annotated[Services, Depends(_services)]

_bearer = HTTPBearer(auto_error=False, description="An API key, 'rs_...'.")


async def _authenticate(
    services: Given, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Principal:
    principal = await services.keys.principal(credentials.credentials) if credentials else None
    if principal is None:
        raise Unauthenticated
    bind_contextvars(tenant=principal.tenant)
    return principal


Asking = Annotated[Principal, Depends(_authenticate)]
Managing = Asking
"""Who manages what is the tenant's as a whole: any of its keys, for now."""
