"""What routes are about, in the tables directly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.access.keys import Keys
from runstream.domain.audit import Action, Actor, ActorKind
from runstream.domain.feedback import FeedbackEvent, Given
from runstream.domain.ids import new_id
from runstream.domain.principal import Kind, Owner
from runstream.domain.run import Ending, Request, Status
from runstream.domain.webhook import WebhookEvent
from runstream.storage.audit import AuditStore
from runstream.storage.documents import FLAGS, PLANS, DocumentStore
from runstream.storage.erasures import ErasureStore
from runstream.storage.feedback import FeedbackStore
from runstream.storage.runs import RunStore
from runstream.storage.webhooks import WebhookStore
from runstream.webhooks.endpoints import Endpoints

WORKER = "worker"
OF_OPERATORS = {"plan", "flag"}
_TABLES = {
    "flag": "flags",
    "plan": "plans",
    "tenant": "tenants",
    "key": "api_keys",
    "webhook": "webhooks",
    "delivery": "webhook_deliveries",
    "erasure": "erasures",
}


@dataclass(frozen=True)
class Thing:
    """`user` is None where it is all of a tenant's; `mark` is in every answer that shows it, and in no other.

    `within` is the id of what an address names before it.
    """

    kind: str
    id: str
    tenant: str
    user: str | None
    mark: str
    within: str | None = None


class Things:
    """Makes them, and remembers all that it has made."""

    def __init__(self, engine: AsyncEngine, store: RunStore, keys: Keys) -> None:
        self._engine = engine
        self._endpoints = Endpoints(WebhookStore(engine), private=False)
        self._store = store
        self._keys = keys
        self._made: list[Thing] = []
        self._makers: dict[str, Callable[[str, str], Awaitable[Thing]]] = {
            "queued run": self._queued,
            "completed run": lambda tenant, user: self._ended(tenant, user, Status.COMPLETED),
            "failed run": lambda tenant, user: self._ended(tenant, user, Status.FAILED),
            "judged run": self._judged,
            "feedback": self._feedback,
            "spend": self._spend,
            "tenant": self._tenant,
            "plan": self._plan,
            "flag": self._flag,
            "key": self._key,
            "webhook": self._webhook,
            "delivery": self._delivery,
            "entry": self._entry,
            "erasure": self._erasure,
        }

    async def make(self, kind: str, tenant: str, user: str) -> Thing:
        thing = await self._makers[kind](tenant, user)
        self._made.append(thing)
        return thing

    def all(self) -> list[Thing]:
        return list(self._made)

    async def state(self, thing: Thing) -> Any:
        """All that is kept of it."""
        table = _TABLES.get(thing.kind, "runs")
        async with self._engine.connect() as connection:
            column = "name" if thing.kind in OF_OPERATORS else "id"
            query = text(f"select to_jsonb(t) from {table} t where {column} = :id")
            return (await connection.execute(query, {"id": thing.id})).scalar_one()

    async def owner_of_run(self, run_id: str) -> tuple[str, str]:
        async with self._engine.connect() as connection:
            query = text("select tenant, user_id from runs where id = :id")
            return tuple((await connection.execute(query, {"id": run_id})).one())

    async def _queued(self, tenant: str, user: str) -> Thing:
        run_id = new_id("run")
        request = Request("chat", "1", "sim:1", input={}, metadata={"mark": run_id})
        made = {"request": request, "queue": "default", "max_attempts": 3}
        await self._store.insert(run_id, tenant=tenant, user=user, **made)
        return Thing("queued run", run_id, tenant, user, run_id)

    async def _ended(self, tenant: str, user: str, status: Status) -> Thing:
        run = await self._queued(tenant, user)
        await self._store.claim(tenant, run.id, WORKER)
        said = f"said by {run.id}"
        ending = Ending(status, 1, [["run.delta", {"text": said}]], said, error={"code": "x", "message": said})
        assert await self._store.end(tenant, run.id, ending, was=Status.RUNNING, attempt=1)
        return Thing(f"{status} run", run.id, tenant, user, run.id)

    async def _judged(self, tenant: str, user: str) -> Thing:
        run = await self._ended(tenant, user, Status.COMPLETED)
        given = Given(FeedbackEvent.EDITED, text=f"better than {run.id}")
        assert await FeedbackStore(self._engine).give(Owner(tenant, None), run.id, given)
        return Thing("judged run", run.id, tenant, user, run.id)

    async def _feedback(self, tenant: str, user: str) -> Thing:
        run, mark = await self._judged(tenant, user), new_id("version")
        async with self._engine.connect() as connection:
            query = text("update feedback set prompt_version = :mark where run_id = :id")
            await connection.execute(query, {"mark": mark, "id": run.id})
        return Thing("feedback", run.id, tenant, user, mark)

    async def _spend(self, tenant: str, user: str) -> Thing:
        mark = new_id("model")
        async with self._engine.connect() as connection:
            await connection.execute(
                text(
                    "insert into ledger (run_id, attempt, call, tenant, user_id, feature, model, provider,"
                    " provider_model, input_tokens, output_tokens, cached_tokens, estimated)"
                    " values (:id, 1, 1, :tenant, :user, 'chat', :mark, 'local', 'm', 1, 1, 0, false)"
                ),
                {"id": new_id("run"), "tenant": tenant, "user": user, "mark": mark},
            )
        return Thing("spend", mark, tenant, user, mark)

    async def _entry(self, tenant: str, user: str) -> Thing:
        by = Actor(ActorKind.COMMAND, "root", new_id("req"))
        entry = by.entry(Action.KEY_REVOKED, tenant=tenant, target=new_id("key"))
        await AuditStore(self._engine, self._engine).append(entry)
        return Thing("entry", entry.id, tenant, None, entry.id)

    async def _tenant(self, tenant: str, user: str) -> Thing:
        return Thing("tenant", tenant, tenant, None, f'{{"id":"{tenant}"')

    async def _plan(self, tenant: str, user: str) -> Thing:
        name = new_id("plan")
        await DocumentStore(self._engine, PLANS).put(name, {})
        return Thing("plan", name, tenant, None, name)

    async def _flag(self, tenant: str, user: str) -> Thing:
        name = new_id("flag")
        await DocumentStore(self._engine, FLAGS).put(name, {"of": {"model": name}})
        return Thing("flag", name, tenant, None, name)

    async def _key(self, tenant: str, user: str) -> Thing:
        record, _ = await self._keys.create(kind=Kind.USER, tenant=tenant, user=user)
        return Thing("key", record.id, tenant, None, record.id)

    async def _webhook(self, tenant: str, user: str) -> Thing:
        async with self._engine.connect() as connection:  # they are few for each tenant
            await connection.execute(text("delete from webhooks where tenant = :tenant"), {"tenant": tenant})
        webhook = await self._endpoints.add(
            tenant, url="https://example.com/", events=list(WebhookEvent), description="", include_output=False
        )
        return Thing("webhook", webhook.id, tenant, None, webhook.id)

    async def _erasure(self, tenant: str, user: str) -> Thing:
        erasure = await ErasureStore(self._engine).ask(tenant, new_id("user"))
        return Thing("erasure", erasure.id, tenant, None, erasure.id)

    async def _delivery(self, tenant: str, user: str) -> Thing:
        webhook = await self._webhook(tenant, user)
        delivery = await self._endpoints.test(tenant, webhook.id)
        return Thing("delivery", delivery.id, tenant, None, delivery.id, within=webhook.id)
