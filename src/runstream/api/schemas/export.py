"""Lines of an export: each an object as JSON, whose `object` says what it is."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from runstream.api.schemas.runs import AttemptObject, RunObject
from runstream.domain.usage import dollars
from runstream.storage.exporting import WholeRun


class ExportBegin(BaseModel):
    """The first line. Of one user, where one is named; what was made later than `at` is not in it."""

    object: Literal["export"] = "export"
    tenant: str
    user: str | None
    at: datetime


class ExportEnd(BaseModel):
    """The last line: an export without it is not whole. `lines` counts those between, by their `object`."""

    object: Literal["export_end"] = "export_end"
    lines: dict[str, int]


class EventLine(BaseModel):
    id: str
    type: str
    data: dict[str, Any]


class RunLine(RunObject):
    """The run as `GET /v1/runs/{id}` shows it, what it was asked, and what its events and attempts are.

    `events` is null where the run has not ended, or they are not kept any more.
    """

    input: dict[str, Any] | None
    events: list[EventLine] | None
    attempts: list[AttemptObject]

    @classmethod
    def whole(cls, whole: WholeRun) -> "RunLine":
        events = None
        if whole.transcript is not None:
            events = [
                EventLine(id=f"{event.attempt}-{event.end}", type=event.type, data=dict(event.data))
                for event in whole.transcript.since(0)
            ]
        return cls(
            **RunObject.of(whole.run).model_dump(),
            input=None if whole.run.input is None else dict(whole.run.input),
            events=events,
            attempts=[AttemptObject.of(attempt) for attempt in whole.attempts],
        )


class LedgerLine(BaseModel):
    """One call to a provider, or one that was not made as its answer was there: that one is `cached`."""

    object: Literal["ledger_entry"] = "ledger_entry"
    run_id: str
    attempt: int
    call: int
    user: str
    feature: str
    model: str
    provider: str
    provider_model: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    estimated: bool
    cost: str | None
    price_version: str | None
    cached: bool
    saved_cost: str | None
    made_at: datetime

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "LedgerLine":
        costs = {name: dollars(entry[name]) for name in ("cost", "saved_cost")}
        return cls(**{**entry, **costs}, user=entry["user_id"])
