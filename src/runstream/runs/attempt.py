"""One attempt at a run, under way in this worker."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from runstream.crash_points import Point, reached
from runstream.domain import events
from runstream.domain.errors import ProviderError, ProviderProtocolError, ProviderRateLimited, ProviderUnavailable
from runstream.domain.findings import Finding
from runstream.domain.run import Claim, KeptAnswer
from runstream.domain.usage import Usage
from runstream.gateway.guards.output import Screen
from runstream.gateway.routes import Target
from runstream.metrics import FOUND
from runstream.runs.note import Note
from runstream.runs.sharing.given import Given
from runstream.stream.writer import Writer

_OUT_OF_REACH = (ProviderUnavailable, ProviderRateLimited)
"""What a provider's answer is not the worse for."""


class Stop(StrEnum):
    """Why an attempt is stopped from outside."""

    CANCELLED = "cancelled"
    """Somebody asked for it."""
    FENCED = "fenced"
    """A newer attempt writes the run."""
    HANDED_BACK = "handed_back"
    """This worker is going away."""


class Attempt:
    """What is known of the generation so far, and the way to stop it.

    It is what the gateway tells how the calls go, and asks whether somebody will go on with an answer that is left.
    """

    def __init__(
        self,
        claim: Claim,
        open_writer: Callable[[Callable[[], None]], Writer],
        note: Note,
        lease_holds: Callable[[], bool],
    ) -> None:
        self.claim = claim
        self.writer = open_writer(lambda: self.stop(Stop.FENCED))
        self.stopped: Stop | None = None
        self.tried: list[Target] = []
        self.bought: list[bool] = []
        """Of each that was tried, whether it may bill something: it said something, or may have read the prompt."""
        self.answer = claim.resume
        """What the provider goes on with by itself, of the call that is made or that the attempt before made."""
        self.kept = claim.resume is not None
        """Somebody else is to read `answer`: it was left for that, or not even begun with."""
        self.begun_anew = False
        """What was to be resumed was not to be had, and another answer was asked for."""
        self.given: Given | None = None
        """Another run's answer, which is this one's as well."""
        self.failure: ProviderError | None = None
        """What the answer broke off with, once it had begun."""
        self.request_id: str | None = None
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.findings: dict[Finding, None] = {}
        """What guards found, in order, each once."""
        self.screen: Screen | None = None
        """What the answer goes through, where it is moderated."""
        self.first_token_at: datetime | None = None
        self.opened_at = 0
        """Where in the transcript the model begins to speak."""
        self.tool_calls: set[int] = set()
        """The indices of those that were opened."""
        self.names = 0
        """Characters of their ids and names, which the position does not count."""
        self.settled = asyncio.Event()
        """It is over, and so its row says, as far as that is up to this worker."""
        self._note = note
        self._lease_holds = lease_holds
        self._generation: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Tell readers that it begins."""
        claim = self.claim
        if claim.attempt == 1:
            self._tell(events.STARTED, {"run_id": claim.run_id, "attempt": 1, "model": claim.model})
        else:
            resumed = {"resumed": True} if claim.resume else {}
            self._tell(
                events.RESTARTED, {"attempt": claim.attempt, "reason": claim.restart_reason or "unknown", **resumed}
            )

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

    async def written_down(self) -> None:
        """Wait until nothing more is written of its answer."""
        await self._note.close()

    # What the gateway tells and asks.

    def trying(self, target: Target, resume: KeptAnswer | None) -> None:
        self.tried.append(target)
        self.bought.append(True)
        self.answer, self.kept = resume, False

    def resumable(self, target: Target, name: str) -> None:
        """The id is as good as the row: the next attempt asks its provider for it."""
        if self.answer is None:
            reached(Point.ANSWER_KNOWN)
            self.answer = KeptAnswer(target.provider, target.model, name)
            self._note.begin(self.answer)

    def failed(self, error: ProviderError) -> None:
        self.bought[-1] = error.worked

    def keep(self) -> bool:
        self.kept = self._keeps()
        return self.kept

    def not_resumed(self, error: ProviderError) -> None:
        self.begun_anew = True
        self._tell(events.RESTARTED, {"attempt": self.claim.attempt, "reason": error.code})

    def _keeps(self) -> bool:
        """Whether another attempt reads on.

        Without the lease one may do so already: then it is not this worker's to stop. What has failed is asked for
        anew, and so is what was silent for too long; what was only out of reach is not. An answer that breaks off
        twice may be one that cannot be read.
        """
        if not self._lease_holds():
            return True
        if self.stopped is not None:
            return self.stopped is not Stop.CANCELLED
        if self.finish_reason is not None or self.claim.attempt >= self.claim.max_attempts:
            return False
        resumed = self.claim.resume is not None and not self.begun_anew
        if self.first_token_at is None:
            return resumed
        return isinstance(self.failure, _OUT_OF_REACH) or (
            isinstance(self.failure, ProviderProtocolError) and not resumed
        )

    def found(self, finding: Finding) -> None:
        """A guard found something."""
        if finding not in self.findings:
            self.findings[finding] = None
            FOUND.labels(finding.where, finding.action).inc()

    @property
    def characters(self) -> int:
        """How much the model has said, whoever was shown it."""
        return self.writer.transcript.characters + (self.screen.withheld if self.screen else 0)

    def _tell(self, type_: str, data: dict[str, Any]) -> None:
        self.writer.append(type_, data)
        self.opened_at = self.writer.transcript.end

    def first_token(self) -> None:
        reached(Point.FIRST_TOKEN)
        self.first_token_at = datetime.now(UTC)
