"""A tenant's webhooks, and what was delivered to them, as the tenant sees it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, delete, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.audit import Entry
from runstream.domain.webhook import (
    TEST,
    Delivery,
    DeliveryAttempt,
    DeliveryStatus,
    OffReason,
    Secret,
    Webhook,
)
from runstream.storage.audit import ask_noting
from runstream.storage.content import PLAIN, WEBHOOKS, Content
from runstream.storage.tables import webhook_deliveries, webhooks
from runstream.storage.tenancy import bound

_SHOWN = [column for column in webhook_deliveries.c if column.name not in {"tenant", "data", "tries"}]
_AGAIN = {
    "status": DeliveryStatus.PENDING,
    "ended_at": None,
    "due_at": func.now(),
    "tries": 0,
}


class WebhookStore:
    """What is changed is changed together with its `entry` in the audit log. All raise Unavailable."""

    def __init__(self, engine: AsyncEngine, content: Content = PLAIN) -> None:
        self._engine = engine
        self._content = content

    async def _ask(self, tenant: str, statement: Any, entry: Entry | None = None) -> Sequence[Row[*tuple[Any, ...]]]:
        return await ask_noting(self._engine, bound(statement), entry, whose=[tenant])

    async def add(self, webhook: Webhook, *, most: int, entry: Entry | None = None) -> bool:
        """Whether there was room for it: a tenant has `most`, or in a race some more."""
        values = {
            "id": webhook.id,
            "tenant": webhook.tenant,
            "url": webhook.url,
            "events": list(webhook.events),
            "description": webhook.description,
            "include_output": webhook.include_output,
            "secrets": await self._sealed(webhook.tenant, webhook.id, webhook.secrets),
            "created_at": webhook.created_at,
        }
        there = select(func.count()).select_from(webhooks).where(webhooks.c.tenant == webhook.tenant)
        row = select(*(literal(value, webhooks.c[name].type) for name, value in values.items()))
        room = row.where(there.scalar_subquery() < most)
        made = insert(webhooks).from_select([*values], room).returning(webhooks.c.id)
        return bool(await self._ask(webhook.tenant, made, entry))

    async def list(self, tenant: str) -> Sequence[Webhook]:
        """The one that was made first first."""
        query = select(webhooks).where(webhooks.c.tenant == tenant).order_by(webhooks.c.id)
        return [await webhook_of(self._content, row) for row in await self._ask(tenant, query)]

    async def get(self, tenant: str, webhook_id: str) -> Webhook | None:
        return await self._one(await self._ask(tenant, select(webhooks).where(_is(tenant, webhook_id))))

    async def change(
        self, tenant: str, webhook_id: str, changes: Mapping[str, Any], *, entry: Entry | None = None
    ) -> Webhook | None:
        """Put these columns in the place of what was there."""
        changed = update(webhooks).where(_is(tenant, webhook_id)).values(changes).returning(webhooks)
        return await self._one(await self._ask(tenant, changed, entry))

    async def switch_on(self, tenant: str, webhook_id: str, *, entry: Entry | None = None) -> None:
        """As if it had never failed."""
        cleared = dict.fromkeys(("disabled_at", "disabled_reason", "failing_since", "resting_until"))
        off = webhooks.c.disabled_at.is_not(None)
        on = update(webhooks).where(_is(tenant, webhook_id), off).values(cleared).returning(webhooks.c.id)
        await self._ask(tenant, on, entry)

    async def switch_off(self, tenant: str, webhook_id: str, *, entry: Entry | None = None) -> None:
        """What is pending ends undelivered."""
        off = (
            update(webhooks)
            .where(_is(tenant, webhook_id), webhooks.c.disabled_at.is_(None))
            .values(disabled_at=func.now(), disabled_reason=OffReason.ASKED)
            .returning(webhooks.c.id)
            .cte("off")
        )
        pending = and_(webhook_deliveries.c.webhook_id == off.c.id, webhook_deliveries.c.tenant == tenant)
        dropped = (
            update(webhook_deliveries)
            .where(pending, webhook_deliveries.c.status == DeliveryStatus.PENDING)
            .values(status=DeliveryStatus.FAILED, ended_at=func.now())
            .cte("dropped")
        )
        await self._ask(tenant, select(off.c.id).add_cte(dropped), entry)

    async def exchange_secrets(
        self,
        tenant: str,
        webhook_id: str,
        was: Sequence[Secret],
        secrets: Sequence[Secret],
        *,
        entry: Entry | None = None,
    ) -> Webhook | None:
        """Put other secrets in the place of those; None where they are not what it has any more."""
        there = select(webhooks.c.id, webhooks.c.tenant, webhooks.c.secrets).where(_is(tenant, webhook_id))
        sealed = await self._sealed(tenant, webhook_id, secrets)
        while rows := await self._ask(tenant, there):
            if await _secrets(self._content, rows[0]) != list(was):
                return None
            same = webhooks.c.secrets == literal(rows[0].secrets, webhooks.c.secrets.type)
            statement = update(webhooks).where(_is(tenant, webhook_id), same).values(secrets=sealed)
            changed = await self._ask(tenant, statement.returning(webhooks), entry)
            if changed:  # else they may be encrypted anew
                return await self._one(changed)
        return None

    async def remove(self, tenant: str, webhook_id: str, *, entry: Entry | None = None) -> bool:
        """Whether there was one. Its deliveries go with it."""
        removed = delete(webhooks).where(_is(tenant, webhook_id)).returning(webhooks.c.id)
        return bool(await self._ask(tenant, removed, entry))

    async def deliveries(
        self, tenant: str, webhook_id: str, *, status: DeliveryStatus | None, before: str | None, limit: int
    ) -> Sequence[Delivery]:
        """A page, the newest first; `before` is the id of the last one of the page before."""
        query = select(*_SHOWN).where(_to(tenant, webhook_id)).order_by(webhook_deliveries.c.id.desc()).limit(limit)
        if status is not None:
            query = query.where(webhook_deliveries.c.status == literal(status, literal_execute=True))
        if before is not None:
            query = query.where(webhook_deliveries.c.id < before)
        return [_delivery(row) for row in await self._ask(tenant, query)]

    async def add_test(
        self, tenant: str, webhook_id: str, event_id: str, *, entry: Entry | None = None
    ) -> Delivery | None:
        """A delivery of nothing but itself; None where the webhook is not there, or switched off."""
        values = {"webhook_id": webhooks.c.id, "id": event_id, "tenant": tenant, "event": TEST, "data": {}}
        columns = [webhook_deliveries.c[name] for name in values]
        row = select(
            *(
                value if value is webhooks.c.id else literal(value, column.type)
                for column, value in zip(columns, values.values(), strict=True)
            )
        ).where(_is(tenant, webhook_id), webhooks.c.disabled_at.is_(None))
        made = insert(webhook_deliveries).from_select(columns, row.with_for_update(read=True, key_share=True))
        rows = await self._ask(tenant, made.returning(*_SHOWN), entry)
        return _delivery(rows[0]) if rows else None

    async def redeliver(
        self, tenant: str, webhook_id: str, delivery_id: str, *, entry: Entry | None = None
    ) -> Delivery | None:
        """Have it attempted at once, and as often as a new one; None where it is not there."""
        again = update(webhook_deliveries).where(_to(tenant, webhook_id), webhook_deliveries.c.id == delivery_id)
        rows = await self._ask(tenant, again.values(_AGAIN).returning(*_SHOWN), entry)
        return _delivery(rows[0]) if rows else None

    async def _sealed(self, tenant: str, webhook_id: str, secrets: Sequence[Secret]) -> Any:
        """Secrets at rest, here and nowhere else."""
        values = {"secrets": _stored(secrets)}
        return (await self._content.sealed(WEBHOOKS, tenant, webhook_id, values))["secrets"]

    async def _one(self, rows: Sequence[Row[Any]]) -> Webhook | None:
        return await webhook_of(self._content, rows[0]) if rows else None


def _is(tenant: str, webhook_id: str) -> Any:
    return and_(webhooks.c.tenant == tenant, webhooks.c.id == webhook_id)


def _to(tenant: str, webhook_id: str) -> Any:
    return and_(webhook_deliveries.c.tenant == tenant, webhook_deliveries.c.webhook_id == webhook_id)


async def webhook_of(content: Content, row: Row[Any]) -> Webhook:
    """Raises ContentUnreadable, Unavailable."""
    return Webhook(
        id=row.id,
        tenant=row.tenant,
        url=row.url,
        events=row.events,
        description=row.description,
        include_output=row.include_output,
        secrets=await _secrets(content, row),
        created_at=row.created_at,
        failing_since=row.failing_since,
        disabled_at=row.disabled_at,
        disabled_reason=None if row.disabled_reason is None else OffReason(row.disabled_reason),
    )


def _stored(secrets: Sequence[Secret]) -> list[dict[str, str | None]]:
    return [
        {"secret": secret.value, "until": None if secret.until is None else secret.until.isoformat()}
        for secret in secrets
    ]


async def _secrets(content: Content, row: Row[Any]) -> list[Secret]:
    opened = await content.opened(WEBHOOKS, row.tenant, row.id, {"secrets": row.secrets})
    return [
        Secret(each["secret"], None if each["until"] is None else datetime.fromisoformat(each["until"]))
        for each in opened["secrets"]
    ]


def attempt_values(attempt: DeliveryAttempt) -> dict[str, Any]:
    return {
        "at": attempt.at.isoformat(),
        "seconds": attempt.seconds,
        "status": attempt.status,
        "error": attempt.error,
    }


def _attempt(values: Mapping[str, Any]) -> DeliveryAttempt:
    return DeliveryAttempt(datetime.fromisoformat(values["at"]), values["seconds"], values["status"], values["error"])


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        id=row.id,
        webhook=row.webhook_id,
        event=row.event,
        run_id=row.run_id,
        status=DeliveryStatus(row.status),
        attempts=[_attempt(each) for each in row.attempts],
        due_at=row.due_at,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )
