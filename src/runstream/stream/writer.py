"""The writing side of the token log: one loop a process sends what all its runs have to say."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
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
_RUNS_A_MILLISECOND = 4
"""Calls keep a distance of a millisecond for each that many runs. Uvloop's timers are no finer."""
_FARTHEST = 40
"""Milliseconds: text that is shown anew 25 times a second flows."""
_PAUSE = (0.05, 2.0)
"""Seconds between tries while Redis does not answer: the first, and the longest."""

log = structlog.get_logger(__name__)


class Writer:
    """Writes one attempt's events. Appending never waits: what is not yet sent stays in the transcript."""

    def __init__(
        self,
        run_id: str,
        attempt: int,
        loop: "WriteLoop",
        on_fenced: Callable[[], None],
        transcript: Transcript | None = None,
    ) -> None:
        self.run_id = run_id
        self.transcript = transcript or Transcript(attempt)
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
        self.send_soon()

    def append_text(self, text: str) -> None:
        """Add a delta of the model's text, as `append` does it: this comes for every token."""
        self.transcript.append_text(DELTA, text)
        self.send_soon()

    @property
    def urgent(self) -> bool:
        """Somebody waits for this: the first token, or the end."""
        return self._settled is not None or self.sent <= 1 < self.transcript.end

    def send_soon(self) -> None:
        if self.sent < self.transcript.end and not self.fenced:
            self._loop.wake(self)

    async def flush(self, seconds: float) -> bool:
        """Wait until all is in the log; False where a newer attempt writes it, or `seconds` were not enough."""
        if self.sent < self.transcript.end and not self.fenced:
            self._settled = asyncio.Event()
            self._loop.wake(self)
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

    With few runs a token goes out at once. With many, calls keep a distance: runs share them, and tokens of a run
    share an entry, so what an entry costs here, in Redis and in each API process leaves room for runs that begin.
    A first token and an end do not keep it: they go at once.
    """

    def __init__(self, token_log: TokenLog, lease_holds: Callable[[], bool] = lambda: True) -> None:
        """A log that is empty cannot refuse an older attempt: one is begun or put back only while the lease holds."""
        self._log = token_log
        self._lease_holds = lease_holds
        self._open = 0
        self._waiting: dict[Writer, None] = {}
        self._urgent: dict[Writer, None] = {}
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._due = 0.0

    def open(
        self, run_id: str, attempt: int, on_fenced: Callable[[], None], transcript: Transcript | None = None
    ) -> Writer:
        """`on_fenced` is called when the log says that a newer attempt writes this run.

        With a `transcript` it sends all of that, and goes on with it.
        """
        self._open += 1
        writer = Writer(run_id, attempt, self, on_fenced, transcript)
        writer.send_soon()
        return writer

    def wake(self, writer: Writer) -> None:
        if writer not in self._waiting:
            self._waiting[writer] = None
            self._wake.set()
        if writer.urgent:
            self._urgent[writer] = None
            self._hurry.set()

    def drop(self, writer: Writer) -> None:
        """Close this writer, and forget what it has not sent."""
        self._open -= 1
        self._forget(writer)

    async def run(self) -> None:
        """Send until cancelled. While Redis does not answer, nothing is dropped, and it is tried again."""
        pause = _PAUSE[0]
        while True:
            await self._wake.wait()
            await self._keep_distance()
            try:
                await self._send()
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("append_failed", error=type(error).__name__, runs=len(self._waiting))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _PAUSE[1])
            else:
                pause = _PAUSE[0]

    async def _keep_distance(self) -> None:
        """Wait for the next call's time, or until somebody is in a hurry."""
        left = self._due - asyncio.get_running_loop().time()
        if left <= 0:
            await asyncio.sleep(0)  # what else is being read in this turn of the loop goes along
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self._hurry.wait()

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        in_time = not self._urgent or loop.time() >= self._due
        writers = self._next(self._waiting if in_time else self._urgent)
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
                self._forget(writer)
                if writer.settle(answer):
                    self.wake(writer)
        APPENDED_EVENTS.count += appended
        if in_time:
            self._due = loop.time() + min(self._open // _RUNS_A_MILLISECOND, _FARTHEST) / 1000
        if any(answer.outcome is Outcome.REFUSED for answer in answers):
            raise ResponseError("Redis did not take an entry")

    async def _hold_back(self) -> None:
        """Nobody may send: those who want to wait for the lease."""
        if self._waiting:
            await asyncio.sleep(_PAUSE[0])

    def _forget(self, writer: Writer) -> None:
        self._waiting.pop(writer, None)
        self._urgent.pop(writer, None)
        if not self._waiting:
            self._wake.clear()
        if not self._urgent:
            self._hurry.clear()

    def _next(self, waiting: Iterable[Writer]) -> list[Writer]:
        writers: list[Writer] = []
        room = _POSITIONS
        for writer in waiting:
            if room <= 0 or len(writers) == _BATCH:
                break
            if writer.sent == 0 and (writer.taken or not self._lease_holds()):
                continue
            writers.append(writer)
            room -= writer.transcript.end - writer.sent
        return writers
