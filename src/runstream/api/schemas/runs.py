"""Runs and their attempts: what is asked for, and what is answered."""

from datetime import datetime
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from runstream.api.schemas.fields import Absent, WhereThereIsSome
from runstream.api.schemas.outcomes import Failure, FindingObject, UsageObject
from runstream.domain.feedback import FeedbackEvent
from runstream.domain.retention import Content
from runstream.domain.run import AttemptRecord, Caching, Complexity, Outcome, Run, Status
from runstream.domain.usage import dollars
from runstream.features.chat import ChatInput, ToolCall

PriorityName = Literal["high", "default", "low"]


class Subject(BaseModel):
    """What of the application's the run is about."""

    model_config = ConfigDict(extra="forbid")

    type: Annotated[str, Field(min_length=1, max_length=128)]
    id: Annotated[str, Field(min_length=1, max_length=256)]


class RunRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    feature: Annotated[str, Field(max_length=64, examples=["chat"])]
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    input: Annotated[dict[str, Any], Field(description="As the feature asks for it.")]
    complexity: Annotated[
        Complexity | None, Field(description="How hard it is: the model may be routed by it, and may ask for it.")
    ] = None
    subject: Subject | None = None
    cache: Annotated[
        Caching | None,
        Field(
            description="`read` takes the answer to the same request of your tenant where one is kept, `refresh` asks "
            "anew and keeps that, `off` does neither. The feature's own where it is left out."
        ),
    ] = None
    metadata: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
        Field(max_length=32, description="Kept with the run and given back."),
    ] = {}
    priority: Annotated[PriorityName, Field(description="Which of the tenant's queued runs goes first.")] = "default"


class ChatRequest(RunRequest):
    """A request of the feature `chat`."""

    feature: Literal["chat"]
    input: ChatInput  # type: ignore[assignment]


class Output(BaseModel):
    """What the model said. `reasoning` and `tool_calls` are there only where there are some."""

    text: str
    reasoning: Annotated[str | Absent, WhereThereIsSome] = None
    tool_calls: Annotated[list[ToolCall] | Absent, WhereThereIsSome] = None

    @classmethod
    def of(cls, run: Run) -> "Output | None":
        if run.output is None:
            return None
        return cls(
            text=run.output,
            reasoning=run.reasoning,
            tool_calls=[ToolCall.model_validate(call) for call in run.tool_calls] if run.tool_calls else None,
        )


class Removed(BaseModel):
    """What of the run is not kept any more, and since when: what was asked, with its subject and metadata; what was
    answered; the events."""

    input: datetime | None
    output: datetime | None
    transcript: datetime | None

    @classmethod
    def of(cls, run: Run) -> "Removed | None":
        return cls(**{kind: run.removed.get(kind) for kind in Content}) if run.removed else None


class RunObject(BaseModel):
    """A run. `output` is there once it has ended; where it did not complete, it holds what had come till then.

    `feedback` is the last verdict on its answer, or that it was `shown`.
    `findings` are what guards found in it, once an attempt has ended; it is `flagged` where any is more than
    `normalize`.
    """

    id: str
    object: Literal["run"] = "run"
    status: Status
    feature: str
    prompt_version: str
    model: str
    complexity: Complexity | None
    provider: str | None
    provider_model: str | None
    user: str
    subject: Subject | None
    metadata: dict[str, str]
    priority: PriorityName
    attempt: int
    max_attempts: int
    output: Output | None = None
    finish_reason: str | None
    error: Failure | None
    usage: UsageObject | None
    cost: str | None
    cached: bool
    flagged: bool
    findings: list[FindingObject]
    feedback: FeedbackEvent | None
    created_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    cancel_requested_at: datetime | None
    finished_at: datetime | None
    removed: Annotated[Removed | Absent, WhereThereIsSome] = None

    @classmethod
    def of(cls, run: Run) -> "RunObject":
        return cls(
            id=run.id,
            status=run.status,
            feature=run.feature,
            prompt_version=run.prompt_version,
            model=run.model,
            complexity=run.complexity,
            provider=run.provider,
            provider_model=run.provider_model,
            user=run.user,
            subject=Subject(type=run.subject_type, id=run.subject_id) if run.subject_type and run.subject_id else None,
            metadata=dict(run.metadata),
            priority=cast("PriorityName", run.priority.name.lower()),
            attempt=run.attempt,
            max_attempts=run.max_attempts,
            output=Output.of(run),
            finish_reason=run.finish_reason,
            error=Failure(**run.error) if run.error else None,
            usage=UsageObject.of(run.usage),
            cost=dollars(run.cost),
            cached=run.cached,
            flagged=run.flagged,
            findings=[FindingObject(**finding) for finding in run.findings or ()],
            feedback=run.feedback,
            created_at=run.created_at,
            started_at=run.started_at,
            first_token_at=run.first_token_at,
            cancel_requested_at=run.cancel_requested_at,
            finished_at=run.finished_at,
            removed=Removed.of(run),
        )


class RunPage(BaseModel):
    """Newest first, without outputs. `next` is the `cursor` of the page after, null at the end."""

    data: list[RunObject]
    next: str | None


class AttemptObject(BaseModel):
    """One attempt. `outcome` is `retried` where it failed and another one followed, `handed_back` where its worker was
    told to stop, and `lapsed` where its worker was lost."""

    object: Literal["attempt"] = "attempt"
    attempt: int
    outcome: Outcome
    error: Failure | None
    provider: str | None
    provider_model: str | None
    provider_request_id: str | None
    usage: UsageObject | None
    cost: str | None
    started_at: datetime
    first_token_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, record: AttemptRecord) -> "AttemptObject":
        generation = record.generation
        return cls(
            attempt=record.attempt,
            outcome=record.outcome,
            error=Failure(**record.error) if record.error else None,
            provider=generation.provider,
            provider_model=generation.provider_model,
            provider_request_id=generation.provider_request_id,
            usage=UsageObject.of(generation.usage),
            cost=dollars(record.cost),
            started_at=record.started_at,
            first_token_at=generation.first_token_at,
            ended_at=record.ended_at,
        )


class AttemptList(BaseModel):
    """The first one first; none while no worker has taken the run up."""

    data: list[AttemptObject]
