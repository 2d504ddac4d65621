"""The one error tree.

    RunstreamError
    ├── InvalidRequest            400  what was sent cannot be understood
    │   ├── InvalidCursor
    │   ├── TenantRequired             an operator is to say whose this is
    │   ├── UserRequired               a server is to say whose the run is
    │   └── InvalidField          422  understood, but a value is not allowed
    ├── Unauthenticated           401
    │   └── InvalidClaims              a token is good, and does not say who this is
    ├── Forbidden                 403  not for this principal, whatever is there
    │   ├── MissingScope               `param` names the scope
    │   ├── TenantSuspended            its new runs are refused
    │   └── NotAllowed                 not by the tenant's plan; `param` says what
    │       ├── FeatureNotAllowed
    │       ├── ModelNotAllowed
    │       └── SwitchedOff            a flag leaves it out; kept as the run's error, where that is so for all
    ├── NotFound                  404  not there, or not yours: the same answer
    ├── MethodNotAllowed          405
    ├── RequestTimeout            408  it did not arrive in time
    ├── Conflict                  409
    │   └── IdempotencyConflict
    ├── ContentRemoved            410  it was not to be kept any longer
    ├── PayloadTooLarge           413
    ├── UnsupportedMediaType      415
    ├── TooManyRequests           429
    │   ├── TooManyQueued              the tenant's runs that wait are as many as may
    │   └── LimitReached               a limit has no room for it; `param` names the limit
    │       ├── RateLimited                of what goes on at once, or within a minute
    │       └── BudgetExceeded             of what a day or a month may take
    ├── HeadTooLarge              431
    ├── Unavailable               503  a part we need does not answer now
    │   ├── TooManyConnections         as many as may be are open
    │   ├── QueueFull                  the runs that wait are as many as may
    │   ├── ContentUnreadable          it is encrypted, and its key is not there
    │   └── SharedCallLost             the call whose answer the run was given is lost: it is made again at once
    ├── ContentBlocked            422  a guard refused what was asked, or answered; kept as the run's error
    ├── ConfigurationError        500  told at start, never to a client
    └── ProviderError             502  what a provider did; kept as the run's error
        ├── ProviderUnavailable        could not be reached, 5xx, or overloaded
        ├── ProviderTimeout            connect, first token, idle or total time ran out
        │   └── ProviderNotConnected       of these, the time to connect
        ├── ProviderRateLimited        429
        ├── ProviderBusy               its keys have no room within the time that a call may wait for its turn
        ├── ProviderRefused            4xx: asking again would not help
        ├── ProviderProtocolError      what came was not its protocol
        └── ProviderAnswerLost         the answer that was to be resumed is not there: begin anew

Each class carries its code (what a program compares), its HTTP status, and whether the same call may succeed
later. The docstring of a class is its message when none is given. Messages reach clients: no secret, no prompt.
"""

from collections.abc import Sequence
from traceback import format_tb
from typing import ClassVar

from runstream.domain.limits import Use


def whereabouts(error: BaseException) -> dict[str, str]:
    """For a log: what kind of error it is and where it was raised. What it says stays out: that may be a prompt."""
    return {"error": type(error).__name__, "stack": "".join(format_tb(error.__traceback__))}


class RunstreamError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str | None = None, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.param = param
        self.retry_after = retry_after
        super().__init__(self.message)


class InvalidRequest(RunstreamError):
    """The request cannot be understood."""

    code = "invalid_request"
    status = 400


class InvalidCursor(InvalidRequest):
    """The cursor is not one that this run's events carry."""

    code = "invalid_cursor"


class TenantRequired(InvalidRequest):
    """Name the tenant that this is about: send 'Runstream-Tenant'."""

    code = "tenant_required"


class UserRequired(InvalidRequest):
    """Name the user that this run is for: send 'Runstream-User'."""

    code = "user_required"


class InvalidField(InvalidRequest):
    """A value in the request is not allowed."""

    code = "invalid_field"
    status = 422

    @classmethod
    def at(cls, path: str, fault: str) -> "InvalidField":
        """`fault` is what Pydantic says of the value at `path`."""
        return cls(f"{path}: {fault.removeprefix('Value error, ')}", param=path)


class Unauthenticated(RunstreamError):
    """Send a valid key or token as 'Authorization: Bearer ...'."""

    code = "unauthenticated"
    status = 401


class InvalidClaims(Unauthenticated):
    """The token does not say who this is."""

    code = "invalid_claims"


class Forbidden(RunstreamError):
    """Your key is not for this."""

    code = "forbidden"
    status = 403


class MissingScope(Forbidden):
    """Your key lacks the scope that this takes."""

    code = "missing_scope"


class TenantSuspended(Forbidden):
    """The tenant is suspended: it can read its runs, and make no new ones."""

    code = "tenant_suspended"


class NotAllowed(Forbidden):
    """The tenant's plan does not allow this."""

    code = "not_allowed"


class FeatureNotAllowed(NotAllowed):
    """The tenant's plan does not allow this feature."""

    code = "feature_not_allowed"


class ModelNotAllowed(NotAllowed):
    """The tenant's plan does not allow this model."""

    code = "model_not_allowed"


class SwitchedOff(NotAllowed):
    """This is switched off."""

    code = "switched_off"


class NotFound(RunstreamError):
    """There is nothing at this address."""

    code = "not_found"
    status = 404


class MethodNotAllowed(RunstreamError):
    """This address does not take that method."""

    code = "method_not_allowed"
    status = 405


class RequestTimeout(RunstreamError):
    """The request did not arrive in time."""

    code = "request_timeout"
    status = 408
    retryable = True


class Conflict(RunstreamError):
    """The request conflicts with what is there."""

    code = "conflict"
    status = 409


class IdempotencyConflict(Conflict):
    """This Idempotency-Key was used with another body: send a new key."""

    code = "idempotency_conflict"


class ContentRemoved(RunstreamError):
    """What was said is not kept any more."""

    code = "content_removed"
    status = 410


class PayloadTooLarge(RunstreamError):
    """The body is larger than is allowed."""

    code = "payload_too_large"
    status = 413


class UnsupportedMediaType(RunstreamError):
    """Send the body as application/json."""

    code = "unsupported_media_type"
    status = 415


class TooManyRequests(RunstreamError):
    """This is asked too often: try again later."""

    code = "too_many_requests"
    status = 429
    retryable = True


class TooManyQueued(TooManyRequests):
    """Too many of your runs wait to be taken up: try again shortly."""

    code = "too_many_queued"


class LimitReached(TooManyRequests):
    """A limit has no room for this."""

    def __init__(self, message: str, *, param: str, retry_after: float, uses: Sequence[Use]) -> None:
        """`uses` are those of all limits that hold for who asked."""
        super().__init__(message, param=param, retry_after=retry_after)
        self.uses = uses


class RateLimited(LimitReached):
    """This is too much at once: try again shortly."""

    code = "rate_limited"


class BudgetExceeded(LimitReached):
    """What may be spent is spent: try again when the next day or month begins."""

    code = "budget_exceeded"


class HeadTooLarge(RunstreamError):
    """The request's line and header fields are larger than is allowed."""

    code = "head_too_large"
    status = 431


class Unavailable(RunstreamError):
    """The service cannot answer now: try again shortly."""

    code = "unavailable"
    status = 503
    retryable = True


class TooManyConnections(Unavailable):
    """Too many connections are open: try again shortly."""

    code = "too_many_connections"


class QueueFull(Unavailable):
    """Too many runs wait to be taken up: try again shortly."""

    code = "queue_full"


class ContentUnreadable(Unavailable):
    """The content is encrypted, and cannot be read now: its key is not there, or it is not what was written."""

    code = "content_unreadable"


class SharedCallLost(Unavailable):
    """The call whose answer this run shared is lost."""

    code = "shared_call_lost"


class ContentBlocked(RunstreamError):
    """The content was refused."""

    code = "content_blocked"
    status = 422

    def __init__(self, message: str, *, categories: Sequence[str]) -> None:
        """`categories` are the names of the rules, or of moderation's categories, that it was refused for."""
        super().__init__(f"{message.rstrip('.')}: {', '.join(categories)}.")
        self.categories = categories


class ConfigurationError(RunstreamError):
    """The configuration is not usable."""

    code = "configuration_error"


class ProviderError(RunstreamError):
    """The provider failed."""

    code = "provider_error"
    status = 502
    worked: ClassVar[bool] = False
    """Whether it may have read the prompt, and bill that, though it failed so before it said anything."""


class ProviderUnavailable(ProviderError):
    """The provider could not be reached or is overloaded."""

    code = "provider_unavailable"
    retryable = True


class ProviderTimeout(ProviderError):
    """The provider took too long."""

    code = "provider_timeout"
    retryable = True
    worked = True


class ProviderNotConnected(ProviderTimeout):
    """No connection to the provider could be made in time."""

    worked = False


class ProviderRateLimited(ProviderError):
    """The provider's rate limit is reached."""

    code = "provider_rate_limited"
    retryable = True


class ProviderBusy(ProviderError):
    """The provider's keys have no room for this within the time that it may wait."""

    code = "provider_busy"
    retryable = True


class ProviderRefused(ProviderError):
    """The provider refused the request."""

    code = "provider_refused"


class ProviderProtocolError(ProviderError):
    """The provider's answer broke off or was not its protocol."""

    code = "provider_protocol_error"
    retryable = True
    worked = True


class ProviderAnswerLost(ProviderError):
    """The provider no longer has the answer that was to be resumed."""

    code = "provider_answer_lost"
    retryable = True
