"""What a webhook's receiver is sent: `{"type", "timestamp", "data"}`, as Standard Webhooks recommends.

The data of a run is the run as `GET /v1/runs/{id}` shows it, field by field, without what was asked and answered. It is
of the moment at which the run ended, whatever has become of the run since. The output is added where the webhook asks
for it, and the run is still as it was.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson

from runstream.domain.run import Run
from runstream.domain.usage import dollars
from runstream.domain.webhook import Dispatch

_SAME = (
    "status",
    "feature",
    "prompt_version",
    "model",
    "provider",
    "provider_model",
    "metadata",
    "attempt",
    "finish_reason",
    "error",
    "cached",
    "flagged",
)
_TIMES = ("created_at", "started_at", "finished_at")
_USAGE = ("input_tokens", "output_tokens", "cached_tokens")


def body(sent: Dispatch, run: Run | None = None) -> bytes:
    """`run` is there where its output is to be sent."""
    data: dict[str, Any] = _run(sent.data) if sent.data else {"webhook": sent.webhook.id}
    if run is not None:
        data["output"] = _output(run) if run.attempt == data["attempt"] else None
    return orjson.dumps({"type": sent.event, "timestamp": _time(sent.created_at), "data": data})


def _run(facts: Mapping[str, Any]) -> dict[str, Any]:
    told = {"id": facts["id"], "object": "run", **{name: facts[name] for name in _SAME}}
    kind, subject = facts["subject_type"], facts["subject_id"]
    told["user"] = facts["user_id"]
    told["subject"] = {"type": kind, "id": subject} if kind and subject else None
    told["usage"] = _usage(facts)
    told["cost"] = dollars(None if facts["cost"] is None else Decimal(facts["cost"]))
    for name in _TIMES:
        told[name] = None if facts[name] is None else _time(datetime.fromisoformat(facts[name]))
    return told


def _usage(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    if facts["output_tokens"] is None:
        return None
    return {**{name: facts[name] for name in _USAGE}, "estimated": facts["usage_estimated"]}


def _output(run: Run) -> dict[str, Any] | None:
    if run.output is None:
        return None
    parts = {"text": run.output, "reasoning": run.reasoning, "tool_calls": run.tool_calls}
    return {name: part for name, part in parts.items() if name == "text" or part}


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
