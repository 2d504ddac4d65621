"""Webhooks: who of a tenant's is told of what, and what became of telling it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from runstream.domain import events


class WebhookEvent(StrEnum):
    """What a tenant can be told of. A test is asked for, and not subscribed to."""

    RUN_COMPLETED = events.COMPLETED
    RUN_FAILED = events.FAILED
    RUN_CANCELLED = events.CANCELLED


TEST = "webhook.test"


class OffReason(StrEnum):
    """Why a webhook is switched off."""

    ASKED = "asked"
    GONE = "gone"
    """Its receiver answered 410."""
    FAILING = "failing"
    """A delivery ran out of attempts, and nothing had succeeded for long."""


@dataclass(frozen=True, slots=True)
class Secret:
    """What deliveries are signed with; `until` is the end of its time, where another has taken its place."""

    value: str
    until: datetime | None = None

    def holds(self, now: datetime) -> bool:
        return self.until is None or now < self.until


@dataclass(frozen=True, slots=True)
class Webhook:
    """`secrets` are the newest first. `failing_since` is when an attempt failed first, if none has succeeded since."""

    id: str
    tenant: str
    url: str
    events: Sequence[str]
    description: str
    include_output: bool
    secrets: Sequence[Secret]
    created_at: datetime
    failing_since: datetime | None = None
    disabled_at: datetime | None = None
    disabled_reason: OffReason | None = None


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """It ran out of attempts, or its webhook was switched off before."""


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """`status` is the receiver's, None where there was no answer: then `error` says why. Nothing of a body is kept."""

    at: datetime
    seconds: float
    status: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one webhook. `id` is the event's, the same for all webhooks of the tenant.

    `attempts` are the last ones. `due_at` is when the next one is due; it is of no meaning once that has ended.
    """

    id: str
    webhook: str
    event: str
    run_id: str | None
    status: DeliveryStatus
    attempts: Sequence[DeliveryAttempt]
    due_at: datetime
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A delivery that this process attempts: `number` counts its attempts since it was due first, and fences them.

    `data` is the run as it ended; it is empty for a test.
    """

    id: str
    webhook: Webhook
    event: str
    run_id: str | None
    data: Mapping[str, Any]
    created_at: datetime
    number: int
