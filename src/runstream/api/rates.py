"""How much of its limits a request has left, in the header fields that IETF's httpapi group drafts for it.

As draft-ietf-httpapi-ratelimit-headers-10 has them: `RateLimit-Policy` says what holds, `RateLimit` what is left of it
and for how many seconds. Limits of cost are left out, for those fields count in whole units: GET /v1/limits has them.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from math import ceil

from runstream.domain.limits import Measure, Use

_UNITS = {Measure.REQUESTS: "requests", Measure.RUNS: "concurrent-requests", Measure.TOKENS: "tokens"}


def rate_headers(uses: Sequence[Use]) -> dict[str, str]:
    """Of each limit, by its name; none where nothing is limited."""
    now = datetime.now(UTC)
    counted = [use for use in uses if use.limit.measure in _UNITS]
    if not counted:
        return {}
    return {
        "RateLimit-Policy": ", ".join(_policy(use, now) for use in counted),
        "RateLimit": ", ".join(_left(use, now) for use in counted),
    }


def _policy(use: Use, now: datetime) -> str:
    limit = use.limit
    policy = f'"{limit.name}";q={limit.most};qu="{_UNITS[limit.measure]}"'
    if limit.window is None:
        return policy
    seconds = limit.window.end(now) - limit.window.start(now)
    return f"{policy};w={int(seconds.total_seconds())}"


def _left(use: Use, now: datetime) -> str:
    left = f'"{use.limit.name}";r={use.remaining}'
    if use.resets_at is None:
        return left
    return f"{left};t={max(0, ceil((use.resets_at - now).total_seconds()))}"
