"""A run: one generation that was asked for, and what became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any

from runstream.domain.feedback import FeedbackEvent
from runstream.domain.findings import Finding
from runstream.domain.retention import Content
from runstream.domain.usage import ProviderCall, Usage, total


class Status(StrEnum):
    """Where a run is in its life.

    queued -> running -> completed | failed | cancelled; running -> queued for another attempt; queued ->
    cancelled | failed when it ends before a worker takes it up; failed | cancelled -> queued when somebody asks for
    another attempt.
    """

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in ENDED


class Complexity(StrEnum):
    """How hard its application says that a run is."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class Outcome(StrEnum):
    """What became of an attempt."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RETRIED = "retried"
    """It failed, and the run was to be tried again."""
    HANDED_BACK = "handed_back"
    """Its worker went away in good order."""
    LAPSED = "lapsed"
    """Its worker's lease ran out. Whoever took the run over wrote this."""


class Priority(IntEnum):
    """Which of a tenant's queued runs goes first: the smallest number. Between tenants it counts for nothing."""

    HIGH = -1
    DEFAULT = 0
    LOW = 1


class Caching(StrEnum):
    """What a run has to do with answers that were given before, to the same request of the same tenant."""

    OFF = "off"
    """Nothing: it takes none, and its own is given to nobody."""
    READ = "read"
    """It takes one where there is one, and its own is kept otherwise."""
    REFRESH = "refresh"
    """It asks a provider, and its own is kept in the place of any other."""


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
    complexity: Complexity | None = None
    priority: Priority = Priority.DEFAULT
    cache: Caching = Caching.OFF


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer that its provider goes on with though nobody reads it: `id` is what it can be read by."""

    provider: str
    model: str
    id: str
    owed: ProviderCall | None = None
    """The call as far as it was seen, by estimate: what is to be paid for it where nobody reads on, or nobody can."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that this worker writes, for one attempt."""

    run_id: str
    tenant: str
    attempt: int
    max_attempts: int
    queue: str
    priority: Priority
    feature: str
    prompt_version: str
    model: str
    input: Mapping[str, Any]
    cache: Caching
    waited: float
    """Seconds from when it could have been claimed."""
    restart_reason: str | None
    cost: Decimal | None
    """Of the attempts before, in US dollars."""
    resume: KeptAnswer | None = None
    """What the attempt before left to be read on."""
    complexity: Complexity | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """What is known of what an attempt asked of providers, once it is over."""

    provider: str | None = None
    provider_model: str | None = None
    provider_request_id: str | None = None
    usage: Usage | None = None
    first_token_at: datetime | None = None
    calls: Sequence[ProviderCall] = ()
    """All calls that the attempt made, in order: the last one is the one that answered."""
    goes_on: KeptAnswer | None = None
    """What the provider still works on. Where it has something `owed`, its call is none of `calls`: it is paid for by
    who reads on, or with the end of a run that nobody reads on."""
    cached: bool = False
    """It is an answer that was given before: no provider was asked."""

    @property
    def cost(self) -> Decimal | None:
        """Of all calls, in US dollars; None where no price is known."""
        return total(call.cost for call in self.calls)


UNKNOWN = Generation()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended. `transcript` and the event that says so are one with the row."""

    status: Status
    attempt: int
    transcript: list[list[Any]]
    output: str | None = None
    error: Mapping[str, Any] | None = None
    finish_reason: str | None = None
    generation: Generation = UNKNOWN
    reasoning: str | None = None
    tool_calls: Sequence[Mapping[str, Any]] | None = None
    findings: Sequence[Finding] = ()
    """What guards found. Those of an attempt that ends for another one are kept until that one has some."""


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt as it is looked at afterwards."""

    attempt: int
    worker: str
    outcome: Outcome
    error: Mapping[str, Any] | None
    generation: Generation
    cost: Decimal | None
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as its owner sees it; the transcript is read apart.

    `output` is the model's text; `tool_calls` have the form of chat completions.
    `findings` are those of guards, and `flagged` whether any says something of the content.
    `feedback` is the last verdict on its answer, or that it was shown.
    `removed` is what is not kept any more, and since when.
    `retried_attempt` is the last one whose end was taken back: nothing that it said counts any more.
    """

    id: str
    tenant: str
    user: str
    status: Status
    attempt: int = 0
    max_attempts: int
    queue: str
    priority: Priority
    feature: str
    prompt_version: str
    model: str
    complexity: Complexity | None = None
    provider: str | None = None
    provider_model: str | None = None
    subject_type: str | None = None
    subject_id: str | None = None
    input: Mapping[str, Any] | None = None
    output: str | None = None
    reasoning: str | None = None
    tool_calls: Sequence[Mapping[str, Any]] | None = None
    error: Mapping[str, Any] | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    cost: Decimal | None = None
    cached: bool = False
    flagged: bool = False
    findings: Sequence[Mapping[str, Any]] | None = None
    feedback: FeedbackEvent | None = None
    retried_attempt: int | None = None
    metadata: Mapping[str, Any]
    created_at: datetime
    started_at: datetime | None = None
    first_token_at: datetime | None = None
    finished_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    removed: Mapping[Content, datetime] = field(default_factory=dict)
