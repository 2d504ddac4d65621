"""Deliveries of webhooks, as the workers that make them see them: those of all tenants."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.errors import ContentUnreadable
from runstream.domain.ids import first_id
from runstream.domain.webhook import DeliveryAttempt, Dispatch, OffReason
from runstream.storage.content import PLAIN, RUNS, Content
from runstream.storage.database import answering, ask
from runstream.storage.statements import delivering
from runstream.storage.statements.delivering import AT_ONCE
from runstream.storage.webhooks import attempt_values, webhook_of

log = structlog.get_logger(__name__)

__all__ = ["AT_ONCE", "DeliveryStore", "Failure", "Waiting"]


class Waiting(NamedTuple):
    """A webhook that something is pending for; `due` says whether it may be attempted now."""

    webhook: str
    tenant: str
    due: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """What follows from a failed attempt.

    `wait`, in seconds, is the time to the next one, None where there is none. `rest`, in seconds, is for how long the
    receiver asked to be left alone. A receiver that is `slow` is left alone too; one that is `gone` is for good.
    """

    wait: float | None
    rest: float | None = None
    slow: bool = False
    gone: bool = False


class DeliveryStore:
    """All raise Unavailable."""

    def __init__(self, engine: AsyncEngine, overall: AsyncEngine, content: Content = PLAIN, *, patience: float) -> None:
        """`overall` has the sweep's rights: it finds what is waiting, and no more is read of that by it.

        A webhook is switched off when a delivery ends undelivered and none has succeeded for `patience` seconds.
        """
        self._engine = engine
        self._overall = overall
        self._content = content
        self._patience = timedelta(seconds=patience)

    async def waiting(self, *, beyond: str, limit: int) -> list[Waiting]:
        """In order, from `beyond` on; an empty one is before all."""
        rows = await ask(self._overall, delivering.WAITING, beyond=beyond, most=limit)
        return [Waiting(*row) for row in rows]

    async def take(self, chosen: Sequence[Waiting], *, lease: float) -> list[Dispatch]:
        """What is due for these webhooks, at most AT_ONCE of each. It is due again where nothing is said of it within
        `lease` seconds."""
        whose, webhooks = {each.tenant for each in chosen}, [each.webhook for each in chosen]
        rows = await ask(
            self._engine, delivering.TAKE, whose=[*whose], webhooks=webhooks, lease=timedelta(seconds=lease)
        )
        taken = [await self._dispatch(row) for row in rows]
        return [each for each in taken if each is not None]

    async def _dispatch(self, row: Row[Any]) -> Dispatch | None:
        """None where it cannot be opened: then it waits for its key."""
        try:
            webhook = await webhook_of(self._content, row)
            data = await self._content.opened(RUNS, webhook.tenant, row.run_id, row.data)  # as its run has them
        except ContentUnreadable as error:
            log.error("delivery_not_readable", delivery=row.delivery, webhook=row.id, error=error.message)  # noqa: TRY400
            named = {"whose": [row.tenant], "tenant": row.tenant, "webhook": row.id, "delivery": row.delivery}
            await _do(self._engine, delivering.PUT_BACK, **named, number=row.tries)
            return None
        return Dispatch(
            row.delivery, webhook, row.event, row.run_id, data, created_at=row.happened_at, number=row.tries
        )

    async def delivered(self, sent: Dispatch, attempt: DeliveryAttempt) -> None:
        await _do(self._engine, delivering.DELIVERED, **_named(sent), attempt=_kept(attempt), delivery=sent.id)
        await _do(self._engine, delivering.HEALTHY, **_named(sent))

    async def failed(self, sent: Dispatch, attempt: DeliveryAttempt, failure: Failure) -> OffReason | None:
        """Answers why the webhook was switched off by this, if it was."""
        rows = await ask(
            self._engine,
            delivering.FAILED,
            **_named(sent),
            attempt=_kept(attempt),
            delivery=sent.id,
            number=sent.number,
            wait=_interval(failure.wait),
            rest=_interval(failure.rest),
            slow=failure.slow,
            gone=failure.gone,
            patience=self._patience,
        )
        return OffReason(rows[0].disabled_reason) if rows else None

    async def forget(self, older: float) -> None:
        """Drop some of what is older than so many seconds, and not pending."""
        first = first_id("evt", time.time() - older)
        await _do(self._overall, delivering.FORGET, first=first)


async def _do(engine: AsyncEngine, statement: Any, **values: Any) -> None:
    with answering():
        async with engine.connect() as connection:
            await connection.execute(statement, values)


def _named(sent: Dispatch) -> Mapping[str, Any]:
    return {"whose": [sent.webhook.tenant], "tenant": sent.webhook.tenant, "webhook": sent.webhook.id}


def _kept(attempt: DeliveryAttempt) -> Sequence[Mapping[str, Any]]:
    return [attempt_values(attempt)]


def _interval(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
