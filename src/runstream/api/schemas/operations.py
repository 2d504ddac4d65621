"""What those see who run the service, and what everybody sees when something is wrong."""

from typing import Literal

from pydantic import BaseModel


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
