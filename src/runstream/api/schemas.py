"""What goes over the wire."""

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from runstream.domain.limits import Measure, Scope, Use, in_dollars
from runstream.domain.run import AttemptRecord, Outcome, Run, Status
from runstream.domain.usage import Usage, dollars
from runstream.features.chat import ChatInput, ToolCall
from runstream.runs.finish import usage_data
from runstream.storage.spend import Spend

_DATE = re.compile(r"[0-9]{4}-")


def _keepable(text: str) -> str:
    if "\0" in text:
        raise ValueError("Text must not contain NUL characters")
    return text


def _written_out(text: str) -> str:
    if not _DATE.match(text):
        raise ValueError("Write a time such as 2026-01-31T12:00:00Z")
    return text


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("This time is out of range") from None


Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_keepable)]
Moment = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc)]
EventId = Annotated[str, Field(json_schema_extra={"pattern": "^([0-9]{1,9}-[0-9]{1,15})?$"})]
IdempotencyKey = Annotated[str, Field(json_schema_extra={"pattern": "^[!-~]{1,255}$"})]
PageCursor = Annotated[str, Field(json_schema_extra={"pattern": "^run_[0-9a-hjkmnp-tv-z]{26}$"})]


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
    subject: Subject | None = None
    metadata: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
        Field(max_length=32, description="Kept with the run and given back."),
    ] = {}


class ChatRequest(RunRequest):
    """A request of the feature `chat`."""

    feature: Literal["chat"]
    input: ChatInput  # type: ignore[assignment]


class UsageObject(BaseModel):
    """Tokens as the provider counted them; `cached_tokens` are part of `input_tokens`.

    Where the provider sent no count, as of a run that was stopped or cut short, they are `estimated`.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int
    estimated: bool

    @classmethod
    def of(cls, usage: Usage | None) -> "UsageObject | None":
        return cls.model_validate(usage_data(usage)) if usage else None


class Failure(BaseModel):
    code: str
    message: str


def _absent(value: object) -> bool:
    return value is None


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


_WhereThereIsSome = Field(exclude_if=_absent, json_schema_extra=_without_default)


class Output(BaseModel):
    """What the model said. `reasoning` and `tool_calls` are there only where there are some."""

    text: str
    reasoning: Annotated[str | SkipJsonSchema[None], _WhereThereIsSome] = None
    tool_calls: Annotated[list[ToolCall] | SkipJsonSchema[None], _WhereThereIsSome] = None

    @classmethod
    def of(cls, run: Run) -> "Output | None":
        if run.output is None:
            return None
        return cls(
            text=run.output,
            reasoning=run.reasoning,
            tool_calls=[ToolCall.model_validate(call) for call in run.tool_calls] if run.tool_calls else None,
        )


class RunObject(BaseModel):
    """A run. `output` is there once it has ended; where it did not complete, it holds what had come till then."""

    id: str
    object: Literal["run"] = "run"
    status: Status
    feature: str
    prompt_version: str
    model: str
    provider: str | None
    provider_model: str | None
    user: str
    subject: Subject | None
    metadata: dict[str, str]
    attempt: int
    max_attempts: int
    output: Output | None = None
    finish_reason: str | None
    error: Failure | None
    usage: UsageObject | None
    cost: str | None
    cached: bool
    created_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    cancel_requested_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, run: Run) -> "RunObject":
        return cls(
            id=run.id,
            status=run.status,
            feature=run.feature,
            prompt_version=run.prompt_version,
            model=run.model,
            provider=run.provider,
            provider_model=run.provider_model,
            user=run.user,
            subject=Subject(type=run.subject_type, id=run.subject_id) if run.subject_type and run.subject_id else None,
            metadata=dict(run.metadata),
            attempt=run.attempt,
            max_attempts=run.max_attempts,
            output=Output.of(run),
            finish_reason=run.finish_reason,
            error=Failure(**run.error) if run.error else None,
            usage=UsageObject.of(run.usage),
            cost=dollars(run.cost),
            cached=run.cached,
            created_at=run.created_at,
            started_at=run.started_at,
            first_token_at=run.first_token_at,
            cancel_requested_at=run.cancel_requested_at,
            finished_at=run.finished_at,
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


class UsageSum(BaseModel):
    """What the calls of one group came to; the group's own fields are those that were asked for.

    `cost` is in US dollars, of all calls but the `unpriced_calls`, whose model has no known price. Tokens of
    `estimated_calls` are not the provider's count: it never gave one.
    """

    tenant: str | SkipJsonSchema[None] = None
    user: str | SkipJsonSchema[None] = None
    feature: str | SkipJsonSchema[None] = None
    model: str | SkipJsonSchema[None] = None
    provider: str | SkipJsonSchema[None] = None
    provider_model: str | SkipJsonSchema[None] = None
    day: date | SkipJsonSchema[None] = None
    calls: int
    estimated_calls: int
    unpriced_calls: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost: str

    @classmethod
    def of(cls, spend: Spend) -> "UsageSum":
        return cls.model_validate(
            {
                **spend.group,
                "calls": spend.calls,
                "estimated_calls": spend.estimated,
                "unpriced_calls": spend.unpriced,
                "input_tokens": spend.input_tokens,
                "output_tokens": spend.output_tokens,
                "cached_tokens": spend.cached_tokens,
                "cost": dollars(spend.cost),
            }
        )


class UsagePage(BaseModel):
    """One entry for each group, in the order of `group_by`; a single one where nothing is asked for."""

    since: Annotated[datetime, Field(serialization_alias="from")]
    until: Annotated[datetime, Field(serialization_alias="to")]
    data: list[UsageSum]


class LimitObject(BaseModel):
    """A limit, and how much of it is used; amounts are numbers, those of cost are US dollars, as text.

    `used` was spent in the window, or asked for; `reserved` is for runs that have not ended. A run's reservation
    gives way to what it really took.
    """

    name: Annotated[str, Field(examples=["user.tokens_per_day"])]
    feature: str | None
    limit: int | str
    used: int | str
    reserved: int | str
    remaining: int | str
    resets_at: datetime | None

    @classmethod
    def of(cls, use: Use) -> "LimitObject":
        priced = use.limit.measure is Measure.COST
        amounts = {
            "limit": use.limit.most,
            "used": use.spent,
            "reserved": use.reserved,
            "remaining": use.remaining,
        }
        return cls.model_validate(
            {
                "name": use.limit.name,
                "feature": use.whose if use.limit.scope is Scope.FEATURE else None,
                **{name: dollars(in_dollars(units)) if priced else units for name, units in amounts.items()},
                "resets_at": use.resets_at,
            }
        )


class LimitList(BaseModel):
    """All that hold for who asks; `at` is the time by which their windows turn."""

    at: datetime
    data: list[LimitObject]


class Readiness(BaseModel):
    """`checks` says of each part "ok", or what is missing."""

    status: Literal["ready", "not ready"]
    checks: dict[str, str]


class ErrorDetail(BaseModel):
    code: str
    message: str
    param: str | None
    request_id: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


class Started(BaseModel):
    """`run.started`: the first attempt begins."""

    run_id: str
    attempt: int
    model: str


class Delta(BaseModel):
    """`run.delta`: text that came; tokens that came together travel together."""

    text: str


class Reasoning(BaseModel):
    """`run.reasoning`: what the model said to itself, where its provider shows it. Pieces travel as text does."""

    text: str


class ToolCallOpened(BaseModel):
    """`run.tool_call`: the model calls a tool. Once for each `index`, before its arguments."""

    index: int
    id: str
    name: str


class ToolCallArguments(BaseModel):
    """`run.tool_call`: a piece of the arguments of the call with this `index`; joined, they are JSON."""

    index: int
    arguments: str


class Restarted(BaseModel):
    """`run.restarted`: forget all so far, the next attempt begins.

    With `resumed` it reads on what its provider has gone on with: the same text comes again, at once. Where the
    provider has lost it, a `run.restarted` of the same attempt without it says so.
    """

    attempt: int
    reason: str
    resumed: Literal[True] | None = None


class Completed(BaseModel):
    """`run.completed`: terminal."""

    status: Literal["completed"]
    finish_reason: str
    usage: UsageObject | None
    cost: str | None


class Failed(BaseModel):
    """`run.failed`: terminal. `partial` says whether anything was said, and so kept."""

    error: Failure
    partial: bool


class Cancelled(BaseModel):
    """`run.cancelled`: terminal. `partial` says whether anything was said, and so kept."""

    partial: bool


EVENTS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("run.started", Started),
    ("run.delta", Delta),
    ("run.reasoning", Reasoning),
    ("run.tool_call", ToolCallOpened),
    ("run.tool_call", ToolCallArguments),
    ("run.restarted", Restarted),
    ("run.completed", Completed),
    ("run.failed", Failed),
    ("run.cancelled", Cancelled),
)
"""The data of each event, by its name; those of a tool call come in two forms."""
