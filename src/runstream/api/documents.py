"""What the OpenAPI document says beside the routes' own types."""

from typing import Any

from fastapi import FastAPI

from runstream.api.schemas import EVENTS, ErrorBody, RunObject

_REFUSALS = {
    400: "The request cannot be understood.",
    401: "No key, or not a valid one.",
    404: "There is no such run of yours.",
    405: "Another method is needed.",
    409: "The Idempotency-Key was used with another body.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "A value is not allowed; `param` says which.",
    503: "A part of the service does not answer now; nothing was accepted. Try again after Retry-After.",
}

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description} for status, description in _REFUSALS.items()
}

_EVENTS = "\n".join(
    f"- `{name}`: " + ", ".join(f"`{field}`" for field in model.model_fields) for name, model in EVENTS.items()
)

EVENT_STREAM: dict[str, Any] = {
    "description": (
        "Server-sent events. `id` is the cursor to go on after, `event` the type, `data` JSON:\n\n"
        f"{_EVENTS}\n\nThe last three are terminal. A comment keeps an idle stream alive."
    ),
    "content": {
        "text/event-stream": {
            "schema": {"type": "string"},
            "example": 'id: 1-6\nevent: run.delta\ndata: {"text":"Hello"}\n\n',
        }
    },
}

STREAMED: dict[str, Any] = {
    "description": "The ended run, where `Prefer: wait` was given; or its events, where they were asked for.",
    "model": RunObject,
    "content": EVENT_STREAM["content"],
}


def describe(app: FastAPI) -> None:
    """Add the events' data to the document's schemas."""
    plain = app.openapi

    def with_events() -> dict[str, Any]:
        document = plain()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in EVENTS.values():
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schema.pop("$defs", None)
            schemas.setdefault(model.__name__, schema)
        return document

    app.openapi = with_events  # type: ignore[method-assign]
