"""Webhooks and their deliveries."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt

from runstream.domain.webhook import Delivery, DeliveryAttempt, DeliveryStatus, OffReason, Webhook, WebhookEvent

_DAY = 24 * 3600


def _each_once(events: list[WebhookEvent]) -> list[WebhookEvent]:
    return list(dict.fromkeys(events))


Url = Annotated[str, Field(max_length=2048, pattern="^https?://", examples=["https://example.com/hooks"])]
Events = Annotated[list[WebhookEvent], Field(min_length=1, max_length=20), AfterValidator(_each_once)]
Description = Annotated[str, Field(max_length=256)]
IncludeOutput = Annotated[StrictBool, Field(description="Whether the run's `output` is sent along.")]


class WebhookRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: Url
    events: Annotated[Events, Field(description="All that there are, where it is left out.")] = list(WebhookEvent)
    description: Description = ""
    include_output: IncludeOutput = False


class WebhookChange(BaseModel):
    """What is left out, or null, stays as it is."""

    model_config = ConfigDict(extra="forbid")

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    include_output: IncludeOutput | None = None
    enabled: StrictBool | None = None


class Rotation(BaseModel):
    model_config = ConfigDict(extra="forbid")

    overlap: Annotated[
        StrictInt, Field(ge=0, le=30 * _DAY, description="Seconds for which the secrets that there were go on signing.")
    ] = _DAY


class SecretObject(BaseModel):
    """A secret that signs; `until` is null for the one that has no end."""

    until: datetime | None


class WebhookObject(BaseModel):
    """A webhook. Of its `secrets` it is said how long they sign, the newest first.

    `failing_since` is when an attempt failed first, if none has succeeded since. It is switched off as was `asked`; as
    its receiver was `gone`, which is what 410 says; or as it kept `failing`.
    """

    id: str
    object: Literal["webhook"] = "webhook"
    url: str
    events: list[str]
    description: str
    include_output: bool
    enabled: bool
    disabled_at: datetime | None
    disabled_reason: OffReason | None
    failing_since: datetime | None
    secrets: list[SecretObject]
    created_at: datetime

    @classmethod
    def of(cls, webhook: Webhook) -> "WebhookObject":
        return cls(**_shown(webhook))


class NewSecret(WebhookObject):
    """A webhook with its newest secret, which is shown this once."""

    secret: Annotated[str, Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])]

    @classmethod
    def of(cls, webhook: Webhook) -> "NewSecret":
        return cls(**_shown(webhook), secret=webhook.secrets[0].value)


def _shown(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": list(webhook.events),
        "description": webhook.description,
        "include_output": webhook.include_output,
        "enabled": webhook.disabled_at is None,
        "disabled_at": webhook.disabled_at,
        "disabled_reason": webhook.disabled_reason,
        "failing_since": webhook.failing_since,
        "secrets": [SecretObject(until=secret.until) for secret in webhook.secrets],
        "created_at": webhook.created_at,
    }


class WebhookList(BaseModel):
    """All of the tenant's, the one that was made first first."""

    data: list[WebhookObject]


class DeliveryAttemptObject(BaseModel):
    """One request. `status` is what it was answered; where it was not, `error` says why."""

    at: datetime
    seconds: float
    status: int | None
    error: str | None

    @classmethod
    def of(cls, attempt: DeliveryAttempt) -> "DeliveryAttemptObject":
        return cls(at=attempt.at, seconds=attempt.seconds, status=attempt.status, error=attempt.error)


class DeliveryObject(BaseModel):
    """One event on its way to one webhook; `id` is the `webhook-id` that the receiver sees.

    `attempts` are the last twenty. It has `failed` when it ran out of attempts, or its webhook was switched off before.
    """

    id: str
    object: Literal["webhook_delivery"] = "webhook_delivery"
    webhook: str
    event: str
    run: str | None
    status: DeliveryStatus
    attempts: list[DeliveryAttemptObject]
    next_attempt_at: datetime | None
    created_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, delivery: Delivery) -> "DeliveryObject":
        return cls(
            id=delivery.id,
            webhook=delivery.webhook,
            event=delivery.event,
            run=delivery.run_id,
            status=delivery.status,
            attempts=[DeliveryAttemptObject.of(attempt) for attempt in delivery.attempts],
            next_attempt_at=delivery.due_at if delivery.status is DeliveryStatus.PENDING else None,
            created_at=delivery.created_at,
            ended_at=delivery.ended_at,
        )


class DeliveryPage(BaseModel):
    """Newest first. `next` is the `cursor` of the page after, null at the end."""

    data: list[DeliveryObject]
    next: str | None
