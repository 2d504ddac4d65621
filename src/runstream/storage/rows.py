"""Between rows and what they stand for: runs, claims and attempts."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Row

from runstream.domain.feedback import FeedbackEvent
from runstream.domain.findings import Finding, flagged, told
from runstream.domain.retention import Content
from runstream.domain.run import (
    AttemptRecord,
    Caching,
    Claim,
    Complexity,
    Generation,
    KeptAnswer,
    Outcome,
    Priority,
    Run,
    Status,
)
from runstream.domain.usage import ProviderCall, Usage


def run_of(values: Mapping[Any, Any]) -> Run:
    return Run(
        id=values["id"],
        tenant=values["tenant"],
        user=values["user_id"],
        status=Status(values["status"]),
        attempt=values["attempt"],
        max_attempts=values["max_attempts"],
        queue=values["queue"],
        priority=Priority(values["priority"]),
        feature=values["feature"],
        prompt_version=values["prompt_version"],
        model=values["model"],
        complexity=_complexity(values["complexity"]),
        provider=values["provider"],
        provider_model=values["provider_model"],
        subject_type=values["subject_type"],
        subject_id=values["subject_id"],
        input=values.get("input"),
        output=values.get("output"),
        reasoning=values.get("reasoning"),
        tool_calls=values.get("tool_calls"),
        error=values["error"],
        finish_reason=values["finish_reason"],
        usage=usage_of(values),
        cost=values["cost"],
        cached=values["cached"],
        flagged=values["flagged"],
        findings=values["findings"],
        feedback=None if values["feedback"] is None else FeedbackEvent(values["feedback"]),
        retried_attempt=values["retried_attempt"],
        metadata=values["metadata"],
        created_at=values["created_at"],
        started_at=values["started_at"],
        first_token_at=values["first_token_at"],
        finished_at=values["finished_at"],
        cancel_requested_at=values["cancel_requested_at"],
        removed={kind: at for kind in Content if (at := values[f"{kind}_removed_at"]) is not None},
    )


def made_run(given: Mapping[str, Any], created_at: datetime) -> Run:
    """The run as it was made, of what its row was given."""
    return Run(
        id=given["id"],
        tenant=given["tenant"],
        user=given["user_id"],
        status=given["status"],
        max_attempts=given["max_attempts"],
        queue=given["queue"],
        priority=given["priority"],
        feature=given["feature"],
        prompt_version=given["prompt_version"],
        model=given["model"],
        complexity=given["complexity"],
        subject_type=given["subject_type"],
        subject_id=given["subject_id"],
        input=given["input"],
        metadata=given["metadata"],
        created_at=created_at,
    )


def claim_of(row: Row[Any], input: Mapping[str, Any]) -> Claim:
    return Claim(
        run_id=row.id,
        tenant=row.tenant,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        queue=row.queue,
        priority=Priority(row.priority),
        feature=row.feature,
        prompt_version=row.prompt_version,
        model=row.model,
        input=input,
        cache=Caching(row.cache or Caching.OFF),
        waited=float(row.waited),
        restart_reason=row.restart_reason,
        cost=row.cost,
        resume=kept_answer(row.left_by, row.left_by_model, row.left, row.owed),
        complexity=_complexity(row.complexity),
    )


def _complexity(value: str | None) -> Complexity | None:
    return None if value is None else Complexity(value)


def kept_answer(
    provider: str, model: str, response_id: str | None, owed: Mapping[str, Any] | None = None
) -> KeptAnswer | None:
    """None where there is none."""
    if response_id is None:
        return None
    return KeptAnswer(provider, model, response_id, None if owed is None else _call(owed))


def attempt_of(row: Row[Any], error: Mapping[str, Any] | None) -> AttemptRecord:
    generation = Generation(
        row.provider, row.provider_model, row.provider_request_id, usage_of(row._mapping), row.first_token_at
    )
    return AttemptRecord(
        row.attempt, row.worker, Outcome(row.outcome), error, generation, row.cost, row.started_at, row.ended_at
    )


def generation_values(generation: Generation) -> dict[str, Any]:
    """As the statements that end an attempt take it."""
    usage = generation.usage
    values = {
        "provider": generation.provider,
        "provider_model": generation.provider_model,
        "provider_request_id": generation.provider_request_id,
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "cached_tokens": usage.cached_tokens if usage else None,
        "usage_estimated": usage is not None and usage.estimated,
        "first_token_at": generation.first_token_at,
        "cost": generation.cost,
    }
    calls = [ledger_entry(number, call) for number, call in enumerate(generation.calls, 1)]
    left = generation.goes_on
    owed = ledger_entry(len(calls) + 1, left.owed) if left and left.owed else None
    kept = {"response_id_now": left and left.id, "owed_now": owed}
    return {**{f"{name}_now": value for name, value in values.items()}, **kept, "provider_calls": calls}


def findings_values(findings: Sequence[Finding]) -> dict[str, Any]:
    """As the statements that end an attempt take them."""
    return {"findings_now": told(findings), "flagged_now": flagged(findings)}


def ledger_entry(number: int, call: ProviderCall) -> dict[str, Any]:
    """A call as the statements take it that enter it in the ledger: costs are text, for JSON has no decimals."""
    usage = call.usage or Usage(0, 0)
    return {
        "call": number,
        "provider": call.provider,
        "provider_model": call.model,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "estimated": usage.estimated,
        "cost": None if call.cost is None else str(call.cost),
        "price_version": call.price_version,
        "cached": call.cached,
        "saved_cost": None if call.saved is None else str(call.saved),
    }


def _call(entry: Mapping[str, Any]) -> ProviderCall:
    """The other way round."""
    usage = Usage(entry["input_tokens"], entry["output_tokens"], entry["cached_tokens"], entry["estimated"])
    cost = None if entry["cost"] is None else Decimal(entry["cost"])
    return ProviderCall(entry["provider"], entry["provider_model"], usage, cost, entry["price_version"])


def usage_of(values: Mapping[Any, Any]) -> Usage | None:
    """Of a run or of an attempt; None where it is not known."""
    if values["output_tokens"] is None:
        return None
    return Usage(values["input_tokens"], values["output_tokens"], values["cached_tokens"], values["usage_estimated"])
