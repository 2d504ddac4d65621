"""Whether calls kept to a rate, by the times at which their provider had them."""

from __future__ import annotations

from collections.abc import Sequence

LATE = 0.5
"""Seconds that a call may be late, or the one before it early, on its way to the provider."""


def kept_the_pace(times: Sequence[float], requests_per_minute: int) -> bool:
    """Whether no stretch of time holds more calls than may go at once, and those that its length allows for.

    A tenth of a minute's calls may go at once. `times` are in seconds, and in order.
    """
    at_once, a_second = requests_per_minute / 10, requests_per_minute / 60
    return all(
        number + 1 <= at_once + (last - first + LATE) * a_second + 1
        for start, first in enumerate(times)
        for number, last in enumerate(times[start:])
    )
