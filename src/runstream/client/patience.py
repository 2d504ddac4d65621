"""When to ask again, and when to give up."""

import random
import time
from collections.abc import Callable

from runstream.domain.errors import RunstreamError

_NEVER_REACHED = 10.0
"""Seconds to go on trying where nothing has ever answered: the address may well be wrong."""
_REACHED = 120.0
"""Seconds to go on trying where a server has answered before."""
_FIRST, _LONGEST = 0.3, 5.0
_LONGEST_ASKED = 30.0


class Patience:
    """Pauses that grow with each failure in a row, spread so that many clients do not come back as one.

    Says through `say` when it begins to wait and when that is over.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._reached = False
        self._failing_since: float | None = None
        self._pause = self._first = _FIRST

    def reached(self) -> None:
        """A server answered, whatever it said."""
        self._reached = True

    def succeeded(self) -> None:
        """What was asked for is coming."""
        if self._failing_since is not None:
            self._say("Connected again.")
        self._failing_since = None
        self._pause = self._first

    def told_to_retry_in(self, milliseconds: int) -> None:
        """The server's own wish for the first pause."""
        self._pause = self._first = min(max(milliseconds, 0) / 1000, _LONGEST_ASKED)

    def wait(self, failure: RunstreamError) -> None:
        """Sleep until it is time to try again. Raises `failure` where that cannot help, or has gone on for too long."""
        if not failure.retryable:
            raise failure
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        pause = max(self._pause * random.uniform(0.5, 1.5), failure.retry_after or 0)  # noqa: S311
        if now + pause > self._failing_since + (_REACHED if self._reached else _NEVER_REACHED):
            raise failure
        if now == self._failing_since:
            self._say(f"{failure.message} Trying again.")
        time.sleep(pause)
        self._pause = min(max(self._pause, _FIRST) * 2, _LONGEST)
