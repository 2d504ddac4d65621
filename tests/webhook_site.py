"""Webhooks as workers deliver them, in the test's own process. Where hours would have to pass, rows are made older."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from receiver import DEADLINE, POLL, receiving
from runstream.domain.ids import new_id
from runstream.domain.run import Ending, Generation, Request, Status
from runstream.domain.usage import ProviderCall, Usage
from runstream.domain.webhook import Delivery, Webhook, WebhookEvent
from runstream.settings import Settings
from runstream.storage.database import connect
from runstream.storage.deliveries import DeliveryStore
from runstream.storage.runs import RunStore
from runstream.storage.tenancy import Role
from runstream.storage.webhooks import WebhookStore
from runstream.webhooks.deliver import Deliver, Schedule
from runstream.webhooks.endpoints import Endpoints
from runstream.webhooks.sender import Sender

TENANT, OTHER = "acme", "other"
DELAYS = Settings.model_fields["webhook_delays"].get_default()
DAY = 24 * 3600
PATIENCE = 3 * DAY
USAGE = Usage(3, 4, 1)
CALLS = (ProviderCall("local", "m-1", USAGE, Decimal("0.000053"), "configured"),)
GENERATION = Generation("local", "m-1", "req-1", USAGE, calls=CALLS)
ENDINGS = {
    Status.COMPLETED: Ending(Status.COMPLETED, 1, [], "said", finish_reason="stop", generation=GENERATION),
    Status.FAILED: Ending(Status.FAILED, 1, [], "sa", error={"code": "provider_refused", "message": "No."}),
    Status.CANCELLED: Ending(Status.CANCELLED, 1, [], "sa"),
}


class WebhookSite:
    """Two tenants, the runs and webhooks of the first unless another is named, and workers that deliver."""

    def __init__(
        self, engine: AsyncEngine, overall: AsyncEngine, database: asyncpg.Connection, stack: AsyncExitStack
    ) -> None:
        self.runs = RunStore(engine)
        self.store = WebhookStore(engine)
        self.endpoints = Endpoints(self.store, private=True)
        self.database = database
        self._engine = engine
        self._overall = overall
        self._stack = stack
        self._running: dict[Deliver, asyncio.Task[None]] = {}

    async def webhook(self, url: str, *, tenant: str = TENANT, **asked: Any) -> Webhook:
        given = {"events": list(WebhookEvent), "description": "", "include_output": False, **asked}
        return await self.endpoints.add(tenant, url=url, **given)

    async def end(self, status: Status = Status.COMPLETED, *, tenant: str = TENANT) -> str:
        """A run that came to this end."""
        request = Request(
            "chat", "1", "fast", {"messages": []}, {"order": "933"}, subject_type="ticket", subject_id="7"
        )
        run_id = new_id("run")
        await self.runs.insert(run_id, tenant=tenant, user="ada", request=request, queue="default", max_attempts=3)
        await self.runs.claim(tenant, run_id, "worker-1")
        assert await self.runs.end(tenant, run_id, ENDINGS[status], was=Status.RUNNING, attempt=1)
        return run_id

    async def worker(self, *, patience: float = 10, private: bool = True, slots: int = 100, **given: Any) -> Deliver:
        """One that waits for an answer for so many seconds."""
        deliver = Deliver(
            store=DeliveryStore(self._engine, self._overall, patience=PATIENCE),
            runs=self.runs,
            sender=Sender(timeout=patience, private=private, lookups=4, **given),
            schedule=Schedule(DELAYS, kept=30 * DAY),
            slots=slots,
            timeout=patience,
            interval=0.02,
        )
        running = self._running[deliver] = asyncio.create_task(deliver.run())

        async def stop() -> None:
            running.cancel()
            await asyncio.wait([running])
            await deliver.aclose(0)

        self._stack.push_async_callback(stop)
        return deliver

    def lose(self, deliver: Deliver) -> None:
        """As if its process had died."""
        for task in [self._running.pop(deliver), *(task for _, task in deliver._at_work.values())]:
            task.cancel()

    async def later(self, seconds: float) -> None:
        """As if so much time had passed."""
        for table, columns in {
            "webhook_deliveries": ("due_at",),
            "webhooks": ("resting_until", "failing_since"),
        }.items():
            older = ", ".join(f"{column} = {column} - make_interval(secs => $1)" for column in columns)
            await self.database.execute(f"update {table} set {older}", float(seconds))

    async def until(self, query: str, *values: Any) -> None:
        """Wait until the query's only value is true."""
        async with asyncio.timeout(DEADLINE):
            while not await self.database.fetchval(query, *values):
                await asyncio.sleep(POLL)

    async def until_tried(self, times: int) -> None:
        """Wait until each delivery was attempted so often, and what came of it is written down."""
        await self.until("select bool_and(jsonb_array_length(attempts) = $1) from webhook_deliveries", times)

    async def until_delivered(self) -> None:
        await self.until("select bool_and(status = 'delivered') from webhook_deliveries")

    async def looked_again(self) -> None:
        """Wait until a worker has seen what is due, by what it sends to somebody else."""
        async with receiving() as another:
            await self.webhook(another.url, tenant=OTHER)
            await self.end(tenant=OTHER)
            await another.until(1)

    async def deliveries(self, webhook: Webhook) -> list[Delivery]:
        return list(await self.store.deliveries(webhook.tenant, webhook.id, status=None, before=None, limit=100))


def secret_of(webhook: Webhook) -> str:
    """The newest."""
    return webhook.secrets[0].value


@asynccontextmanager
async def standing(database_url: str) -> AsyncIterator[WebhookSite]:
    async with AsyncExitStack() as stack:
        engine = connect(database_url, pool_size=8, timeout=DEADLINE, role=Role.APPLICATION)
        overall = connect(database_url, pool_size=2, timeout=DEADLINE, role=Role.SWEEP)
        for each in (engine, overall):
            stack.push_async_callback(each.dispose)
        database = await asyncpg.connect(database_url, timeout=DEADLINE, command_timeout=DEADLINE)
        stack.push_async_callback(database.close)
        for tenant in (TENANT, OTHER):
            await database.execute("insert into tenants (id) values ($1)", tenant)
        yield WebhookSite(engine, overall, database, stack)
