"""How much of its limits a request has left, in the header fields that IETF's httpapi group drafts for it.

As draft-ietf-httpapi-ratelimit-headers-10 has them: `RateLimit-Policy` says what holds, `RateLimit` what is left of it
and for how many seconds. Limits of cost are left out, for those fields count in whole units: GET /v1/limits has them.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from time import time
from typing import NamedTuple

from runstream.domain.limits import Left, Limit, Measure, Window

_UNITS = {Measure.REQUESTS: "requests", Measure.RUNS: "concurrent-requests", Measure.TOKENS: "tokens"}


class _Form(NamedTuple):
    """The fields, but for what is left of the limits at these `places`."""

    policy: str
    left: str
    places: Sequence[int]


def rate_headers(left: Left) -> dict[str, str]:
    """Of each limit, by its name; none where nothing is limited."""
    form = _form(left.limits, left.turns, int(time()))
    if not form.places:
        return {}
    amounts = left.amounts
    remaining = tuple([max(0, amounts[place]) for place in form.places])
    return {"RateLimit-Policy": form.policy, "RateLimit": form.left % remaining}


@lru_cache(maxsize=256)  # all that is answered within a second differs in what is left alone
def _form(limits: tuple[Limit, ...], turns: tuple[int, ...], now: int) -> _Form:
    places = [place for place, limit in enumerate(limits) if limit.measure is not Measure.COST]
    policies, left = [], []
    for place in places:
        limit = limits[place]
        width, rest = _window(limit.window, turns[place], now)
        policies.append(f'"{limit.name}";q={limit.most};qu="{_UNITS[limit.measure]}"{width}')
        left.append(f'"{limit.name}";r=%d{rest}')
    return _Form(", ".join(policies), ", ".join(left), places)


def _window(window: Window | None, turns: int, now: int) -> tuple[str, str]:
    """How many seconds the window is wide, and how many of them are left."""
    if window is None:
        return "", ""
    return f";w={_width(window, turns)}", f";t={max(0, turns - now)}"


@lru_cache(maxsize=16)
def _width(window: Window, turns: int) -> int:
    first = window.start(datetime.fromtimestamp(turns - 1, UTC))
    return turns - int(first.timestamp())
