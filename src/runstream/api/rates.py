"""How much of its limits a request has left, in the header fields that IETF's httpapi group drafts for it.

As draft-ietf-httpapi-ratelimit-headers-10 has them: `RateLimit-Policy` says what holds, `RateLimit` what is left of it
and for how many seconds. Limits of cost are left out, for those fields count in whole units: GET /v1/limits has them.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import ceil

from runstream.domain.limits import Measure, Use, Window

_UNITS = {Measure.REQUESTS: "requests", Measure.RUNS: "concurrent-requests", Measure.TOKENS: "tokens"}


def rate_headers(uses: Sequence[Use]) -> dict[str, str]:
    """Of each limit, by its name; none where nothing is limited."""
    counted = [use for use in uses if use.limit.measure is not Measure.COST]
    if not counted:
        return {}
    now = datetime.now(UTC)
    turns = {use.limit.window: use.resets_at for use in counted}
    windows = {window: _window(window, at, now) for window, at in turns.items()}
    policies, left = [], []
    for use in counted:
        limit = use.limit
        width, rest = windows[limit.window]
        policies.append(f'"{limit.name}";q={limit.most};qu="{_UNITS[limit.measure]}"{width}')
        left.append(f'"{limit.name}";r={use.remaining}{rest}')
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(left)}


def _window(window: Window | None, turns: datetime | None, now: datetime) -> tuple[str, str]:
    """How many seconds the window is wide, and how many of them are left."""
    if window is None or turns is None:
        return "", ""
    return f";w={_width(window, turns)}", f";t={max(0, ceil((turns - now).total_seconds()))}"


@lru_cache(maxsize=16)
def _width(window: Window, turns: datetime) -> int:
    return int((turns - window.start(turns - timedelta(seconds=1))).total_seconds())
