"""A run: one generation that was asked for, and what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from runstream.domain.usage import Usage


class Status(StrEnum):
    """Where a run is in its life.

    queued -> running -> completed | failed | cancelled; running -> queued for another attempt; queued ->
    cancelled | failed when it ends before a worker takes it up.
    """

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in ENDED


ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for; `input` as its feature validated it."""

    feature: str
    prompt_version: str
    model: str
    input: Mapping[str, Any]
    metadata: Mapping[str, Any]
    subject_type: str | None = None
    subject_id: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that this worker writes, for one attempt."""

    run_id: str
    tenant: str
    attempt: int
    max_attempts: int
    queue: str
    feature: str
    model: str
    input: Mapping[str, Any]
    waited: float
    restart_reason: str | None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended. `transcript` and the event that says so are one with the row."""

    status: Status
    attempt: int
    transcript: list[list[Any]]
    output: str | None = None
    error: Mapping[str, Any] | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    provider: str | None = None
    provider_model: str | None = None
    provider_request_id: str | None = None
    first_token_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run as its owner sees it; the transcript is read apart."""

    id: str
    tenant: str
    user: str
    status: Status
    attempt: int
    max_attempts: int
    feature: str
    prompt_version: str
    model: str
    provider: str | None
    provider_model: str | None
    subject_type: str | None
    subject_id: str | None
    input: Mapping[str, Any] | None
    output: str | None
    error: Mapping[str, Any] | None
    finish_reason: str | None
    usage: Usage | None
    cost: Decimal | None
    cached: bool
    metadata: Mapping[str, Any]
    created_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
