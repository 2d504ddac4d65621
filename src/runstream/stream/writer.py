"""The writing side of the token log: one loop a process sends what all its runs have to say."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import structlog
from redis.exceptions import RedisError, ResponseError

from runstream.domain.events import DELTA
from runstream.domain.transcript import Transcript
from runstream.metrics import APPENDED_EVENTS, PUT_BACK
from runstream.stream.log import Append, Appended, Outcome, TokenLog

_BATCH = 128
"""Runs that share one call: enough to save round trips, few enough not to hold Redis up."""
_POSITIONS = 1_000_000
"""About how much text shares one call. What is more must not make every call run into its deadline, over and over."""
_RUNS_A_MILLISECOND = 12
"""Calls keep a distance of a millisecond for each that many runs. Uvloop's timers are no finer."""
_FARTHEST = 8
"""Milliseconds: half of what a display takes for a frame."""
_PAUSE = (0.05, 2.0)
"""Seconds between tries while Redis does not answer: the first, and the longest."""

log = structlog.get_logger(__name__)


class Writer:
    """Writes one attempt's events. Appending never waits: what is not yet sent stays in the transcript."""

    def __init__(self, run_id: str, attempt: int, loop: "WriteLoop", on_fenced: Callable[[], None]) -> None:
        self.run_id = run_id
        self.transcript = Transcript(attempt)
        self.sent = 0
        self.fenced = False
        self.taken = False
        """The worker has lost the run: its log is not begun, nor put back, by this writer."""
        self._loop = loop
        self._on_fenced = on_fenced
        self._settled: asyncio.Event | None = None

    def append(self, type_: str, data: Mapping[str, Any]) -> None:
        """Add an event to the transcript, to be sent as soon as the call before has returned."""
        self.transcript.append(type_, data)
        self._send_soon()

    def append_text(self, text: str) -> None:
        """Add a delta of the model's text, as `append` does it: this comes for every token."""
        self.transcript.append_text(DELTA, text)
        self._send_soon()

    def _send_soon(self) -> None:
        if self.sent < self.transcript.end and not self.fenced:
            self._loop.wake(self)

    async def flush(self, seconds: float) -> bool:
        """Wait until all is in the log; False where a newer attempt writes it, or `seconds` were not enough."""
        if self.sent < self.transcript.end and not self.fenced:
            self._settled = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._settled.wait()
        return self.sent >= self.transcript.end

    def pending(self) -> Append:
        return Append(self.run_id, self.transcript.attempt, self.sent, self.transcript.since(self.sent))

    def settle(self, answer: Appended) -> bool:
        """Take the log's answer in; whether there is more to send."""
        if answer.outcome is Outcome.FENCED:
            self.fenced = True
            self._on_fenced()
            self._nothing_more()
            return False
        if answer.outcome is Outcome.LOST:
            PUT_BACK.inc()
        self.sent = 0 if answer.outcome is Outcome.LOST else answer.end
        more = self.sent < self.transcript.end
        if not more:
            self._nothing_more()
        return more

    def _nothing_more(self) -> None:
        if self._settled is not None:
            self._settled.set()


class WriteLoop:
    """Sends as soon as the call before has returned, with all that came meanwhile.

    With few runs a token goes out at once. With many, calls keep a distance of a few milliseconds: runs share them,
    and what a call costs here, in Redis and in each API process is shared by their tokens.
    """

    def __init__(self, token_log: TokenLog, lease_holds: Callable[[], bool] = lambda: True) -> None:
        """A log that is empty cannot refuse an older attempt: one is begun or put back only while the lease holds."""
        self._log = token_log
        self._lease_holds = lease_holds
        self._open = 0
        self._waiting: dict[Writer, None] = {}
        self._wake = asyncio.Event()

    def open(self, run_id: str, attempt: int, on_fenced: Callable[[], None]) -> Writer:
        """`on_fenced` is called when the log says that a newer attempt writes this run."""
        self._open += 1
        return Writer(run_id, attempt, self, on_fenced)

    def wake(self, writer: Writer) -> None:
        self._waiting[writer] = None
        self._wake.set()

    def drop(self, writer: Writer) -> None:
        """Close this writer, and forget what it has not sent."""
        self._open -= 1
        self._waiting.pop(writer, None)

    async def run(self) -> None:
        """Send until cancelled. While Redis does not answer, nothing is dropped, and it is tried again."""
        pause = _PAUSE[0]
        while True:
            await self._wake.wait()
            # What else is being read in this turn of the loop goes along in any case.
            await asyncio.sleep(min(self._open // _RUNS_A_MILLISECOND, _FARTHEST) / 1000)
            try:
                await self._send()
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("append_failed", error=type(error).__name__, runs=len(self._waiting))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _PAUSE[1])
            else:
                pause = _PAUSE[0]

    async def _send(self) -> None:
        writers = self._next()
        if not writers:
            await self._hold_back()
            return
        batch = [writer.pending() for writer in writers]
        answers = await self._log.append(batch)
        appended = 0
        for writer, append, answer in zip(writers, batch, answers, strict=True):
            if answer.outcome is Outcome.APPENDED:
                appended += len(append.events)
            if writer in self._waiting:
                del self._waiting[writer]
                if writer.settle(answer):
                    self._waiting[writer] = None
        APPENDED_EVENTS.count += appended
        if not self._waiting:
            self._wake.clear()
        if any(answer.outcome is Outcome.REFUSED for answer in answers):
            raise ResponseError("Redis did not take an entry")

    async def _hold_back(self) -> None:
        """Nobody may send: those who want to wait for the lease."""
        if self._waiting:
            await asyncio.sleep(_PAUSE[0])
        else:
            self._wake.clear()

    def _next(self) -> list[Writer]:
        writers: list[Writer] = []
        room = _POSITIONS
        for writer in self._waiting:
            if room <= 0 or len(writers) == _BATCH:
                break
            if writer.sent == 0 and (writer.taken or not self._lease_holds()):
                continue
            writers.append(writer)
            room -= writer.transcript.end - writer.sent
        return writers
