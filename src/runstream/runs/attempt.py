"""One attempt at a run, under way in this worker."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum

from runstream.crash_points import Point, reached
from runstream.domain.run import Claim
from runstream.domain.usage import Usage
from runstream.gateway.routes import Target
from runstream.stream.writer import Writer


class Stop(StrEnum):
    """Why an attempt is stopped from outside."""

    CANCELLED = "cancelled"
    """Somebody asked for it."""
    FENCED = "fenced"
    """A newer attempt writes the run."""
    HANDED_BACK = "handed_back"
    """This worker is going away."""


class Attempt:
    """What is known of the generation so far, and the way to stop it."""

    def __init__(self, claim: Claim, open_writer: Callable[[Callable[[], None]], Writer]) -> None:
        self.claim = claim
        self.writer = open_writer(lambda: self.stop(Stop.FENCED))
        self.stopped: Stop | None = None
        self.tried: list[Target] = []
        self.request_id: str | None = None
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.first_token_at: datetime | None = None
        self.tool_calls: set[int] = set()
        """The indices of those that were opened."""
        self.names = 0
        """Characters of their ids and names, which the position does not count."""
        self._generation: asyncio.Task[None] | None = None

    async def run(self, generation: asyncio.Task[None], *, stop: Stop | None = None) -> BaseException | None:
        """Wait for the generation, and answer what it raised; a cancellation of the caller stops it too.

        With `stop` it is stopped before it begins.
        """
        self._generation = generation
        if stop is not None:
            self.stop(stop)
        try:
            await asyncio.wait([generation])
        finally:
            generation.cancel()
        self._generation = None
        return asyncio.CancelledError() if generation.cancelled() else generation.exception()

    def stop(self, reason: Stop) -> None:
        """Stop the generation, if it still goes on; the first reason counts."""
        if self.stopped is None and self._generation is not None and not self._generation.done():
            self.stopped = reason
            self._generation.cancel()

    def lose(self) -> None:
        """Stop, and put nothing back: the run is not this worker's any more."""
        self.writer.taken = True
        self.stop(Stop.FENCED)

    def first_token(self) -> None:
        reached(Point.FIRST_TOKEN)
        self.first_token_at = datetime.now(UTC)
