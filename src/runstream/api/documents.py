"""What the OpenAPI document says beside the routes' own types."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from runstream.api.schemas.events import EVENTS
from runstream.api.schemas.operations import ErrorBody
from runstream.api.schemas.runs import ChatRequest, RunObject

_REFUSALS = {
    400: "The request cannot be understood.",
    401: "No key, or not a valid one.",
    403: "The key lacks a scope, which `param` names; or it is not for this at all.",
    404: "There is no such thing of yours.",
    409: "The Idempotency-Key was used with another body.",
    410: "The run's transcript is not kept any more: the run itself says since when.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "A value is not allowed; `param` says which.",
    429: (
        "A limit has no room for it, and `param` says which; or as many runs of yours wait as may; or too many keys "
        "from your address were not valid. Try again after Retry-After; nothing was accepted."
    ),
    503: (
        "A part of the service does not answer now. Try again after Retry-After; with the same Idempotency-Key there "
        "is one run, whether or not this request made it."
    ),
}

EVERYWHERE = (400, 401, 403, 422, 429, 503)
"""What who asks with a key may be told on every route."""

NOT_RETRYABLE: dict[str, Any] = {"model": ErrorBody, "description": "The run has not failed and is not cancelled."}

_SCHEMAS = "#/components/schemas/"


def _one_event(name: str, model: type[BaseModel]) -> dict[str, Any]:
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": _reference(model)}
    return {
        "type": "object",
        "properties": {"id": {"type": "string"}, "event": {"const": name}, "data": data},
        "required": ["id", "event", "data"],
    }


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _SCHEMAS + model.__name__}


ALL_SEEN: dict[str, Any] = {"description": "The run has ended, and its last event was seen."}
EVENT_STREAM: dict[str, Any] = {
    "description": (
        "Server-sent events: `id` is the cursor to go on after, `event` the type, `data` JSON. The stream ends after "
        "`run.completed`, `run.failed` or `run.cancelled`. A comment keeps an idle one alive."
    ),
    "content": {
        "text/event-stream": {
            "schema": {"oneOf": [_one_event(name, model) for name, model in EVENTS]},
            "example": 'id: 1-6\nevent: run.delta\ndata: {"text":"Hello"}\n\n',
        }
    },
}

STREAMED: dict[str, Any] = {
    "description": (
        "The ended run, where `Prefer: wait` was given; or its events, as the run's `/events` has them, where the "
        "request accepts `text/event-stream`."
    ),
    "model": RunObject,
    "content": EVENT_STREAM["content"],
}

CHAT_BODY: dict[str, Any] = {"requestBody": {"content": {"application/json": {"schema": _reference(ChatRequest)}}}}
"""A request as the shipped feature takes it, in place of what any feature may."""


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody, "description": _REFUSALS[status]} for status in statuses}


def describe(app: FastAPI) -> None:
    """Add to the document's schemas what no route's type names: the chat request, and the data of events."""
    plain = app.openapi

    def with_schemas() -> dict[str, Any]:
        document = plain()
        schemas = document["components"]["schemas"]
        if ChatRequest.__name__ not in schemas:
            _, ours = models_json_schema(
                [(ChatRequest, "validation"), *((model, "serialization") for _, model in EVENTS)],
                ref_template=_SCHEMAS + "{model}",
            )
            schemas |= ours["$defs"] | schemas
            schemas.pop("RunRequest", None)
        return document

    app.openapi = with_schemas  # type: ignore[method-assign]
