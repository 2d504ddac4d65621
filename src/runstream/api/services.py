"""What the routes are given."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from redis.asyncio import Redis

from runstream.access.authenticate import Authenticate
from runstream.access.check import KeyCheck
from runstream.access.jwt_check import JwtCheck
from runstream.access.keys import Keys
from runstream.access.run_tokens import RunTokens
from runstream.api.exporting import Export
from runstream.gateway.admission import Admission
from runstream.gateway.limits import Limits
from runstream.queue.enqueue import JobQueue
from runstream.runs.cancel import Cancel
from runstream.runs.delete import Delete
from runstream.runs.retry import Retry
from runstream.runs.submit import Submit
from runstream.runs.watch import Watch
from runstream.storage.audit import AuditStore
from runstream.storage.erasures import ErasureStore
from runstream.storage.feedback import FeedbackStore
from runstream.storage.lists import AllRuns, RunLists
from runstream.storage.runs import RunStore
from runstream.storage.spend import SpendStore
from runstream.stream.hub import Hub
from runstream.terms.copy import TermsCopy
from runstream.terms.documents import Named
from runstream.terms.tenants import Tenants
from runstream.webhooks.endpoints import Endpoints


@dataclass(frozen=True, slots=True)
class Services:
    missing_migration: Callable[[], Awaitable[str | None]]
    redis: Redis
    store: RunStore
    lists: RunLists
    all_runs: AllRuns
    spend: SpendStore
    admission: Admission
    key_check: KeyCheck
    jwt_check: JwtCheck
    authenticate: Authenticate
    keys: Keys
    run_tokens: RunTokens
    jobs: JobQueue
    queue: str
    hub: Hub
    submit: Submit
    cancel: Cancel
    delete: Delete
    export: Export
    erasures: ErasureStore
    retry: Retry
    watch: Watch
    endpoints: Endpoints
    audit: AuditStore
    feedback: FeedbackStore
    terms: TermsCopy
    limits: Limits
    tenants: Tenants
    plans: Named
    flags: Named
    listening: Callable[[], Coroutine[Any, Any, None]]


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Given = Annotated[Services, Depends(_services)]
