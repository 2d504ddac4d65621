"""Pages of other origins that may call the API from a browser."""

from collections.abc import Collection

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from runstream.api.context import protected
from runstream.api.errors import respond
from runstream.domain.errors import InvalidRequest

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Prefer")
_EXPOSED = (
    "Idempotency-Replayed",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "X-Request-Id",
)
"""Beside those that a script may read of any answer."""


def allow_origins(app: FastAPI, origins: Collection[str]) -> None:
    """Stand around everything, so that a page can read errors too.

    A page sends its key in each request: no cookie has a meaning here, and credentials are not allowed. What follows
    an answer's head goes past this, so a token costs no more.
    """
    app.add_middleware(
        _Origins, allow_origins=origins, allow_methods=_METHODS, allow_headers=_HEADERS, expose_headers=_EXPOSED
    )


class _Origins(CORSMiddleware):
    """Refuses as everything here does."""

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code >= InvalidRequest.status:
            refusal = respond(InvalidRequest(f"{bytes(answer.body).decode()}: see RUNSTREAM_CORS_ORIGINS."))
            refusal.headers["Vary"] = answer.headers["Vary"]
            answer = refusal
        answer.raw_headers = protected(answer.raw_headers)
        return answer
