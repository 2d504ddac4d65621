"""The one place where errors become HTTP."""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from structlog.contextvars import get_contextvars

from runstream.api.rates import rate_headers
from runstream.domain.errors import (
    InvalidField,
    InvalidRequest,
    LimitReached,
    MethodNotAllowed,
    NotFound,
    RunstreamError,
    Unauthenticated,
    UnsupportedMediaType,
)
from runstream.domain.limits import Left

_BY_STATUS: dict[int, type[RunstreamError]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    404: NotFound,
    405: MethodNotAllowed,
    415: UnsupportedMediaType,
}


def respond(error: RunstreamError) -> JSONResponse:
    """`{"error": {"code", "message", "param", "request_id"}}`, whatever went wrong."""
    body = {
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "request_id": get_contextvars().get("request_id"),
    }
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, ceil(error.retry_after)))
    if isinstance(error, LimitReached):
        headers |= rate_headers(Left.of(error.uses))
    if error.status == Unauthenticated.status:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": body}, status_code=error.status, headers=headers)


def install(app: FastAPI) -> None:
    """Map every error that a route can raise."""

    @app.exception_handler(RunstreamError)
    async def ours(_request: Request, error: RunstreamError) -> JSONResponse:
        return respond(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return respond(_first(error.errors()))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        response = respond(_BY_STATUS.get(error.status_code, RunstreamError)())
        response.status_code = error.status_code
        if allow := (error.headers or {}).get("Allow"):
            response.headers["Allow"] = ", ".join(sorted({*allow.split(", "), *_methods(request)}))
        return response


def _methods(request: Request) -> Iterator[str]:
    """All that the address takes: the framework names those of the first route that fits."""
    operations = request.app.openapi()["paths"].get(request.scope["route"].path, {})
    return map(str.upper, operations)


def _first(errors: Sequence[Any]) -> RunstreamError:
    first = errors[0]
    path = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    if first["type"] == "json_invalid":
        return InvalidRequest("The body is not valid JSON.")
    return InvalidField.at(path, first["msg"])
