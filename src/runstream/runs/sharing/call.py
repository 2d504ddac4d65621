"""A call whose answer any number of runs are given, while it comes."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

from runstream.answers.board import Answered
from runstream.domain import errors, events
from runstream.domain.errors import ProviderError, SharedCallLost
from runstream.domain.transcript import Transcript
from runstream.domain.usage import Usage
from runstream.gateway.routes import Target
from runstream.providers.base import Piece, ReasoningDelta, TextDelta, ToolCallDelta
from runstream.runs.attempt import Attempt
from runstream.runs.sharing.given import piece_of
from runstream.stream.writer import Writer

_FAILURES = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ProviderError)
}


def call_name(run_id: str, attempt: int) -> str:
    """The name of the call that an attempt begins, if it begins one: whoever deletes the run finds its log by that."""
    return f"call_{run_id.removeprefix('run_')}-{attempt}"


class Finish(NamedTuple):
    """How an answer ended: `target` gave it, for `usage`."""

    reason: str
    target: Target
    usage: Usage | None


class SharedCall:
    """What was said so far, and the runs of this process that read it.

    It is made here, for its `leader`, the run that began it and pays for it; or in another process, and followed here.
    """

    def __init__(self, key: str, name: str, leader: Attempt | None) -> None:
        self.key = key
        self.name = name
        self.leader = leader
        self.transcript = Transcript(1)
        self.readers = 0
        self.shared = False
        """Somebody else than its leader reads it, or has."""
        self.writer: Writer | None = None
        """Where it is written for other processes."""
        self.task: asyncio.Task[None] | None = None
        self.answered: Answered | None = None
        """The run that has the answer for those who ask when the call is over."""
        self.finish: Finish | None = None
        self.failure: Exception | None = None
        self._stopped = False
        self._missing_since: float | None = None
        self._opened: set[int] = set()
        self._news = asyncio.Event()

    @property
    def over(self) -> bool:
        return self.finish is not None or self.failure is not None

    async def read(self) -> AsyncGenerator[Piece, None]:
        """All that is said, from the beginning. Raises what the call failed with, SharedCallLost among it."""
        position = 0
        while True:
            for event in self.transcript.since(position):
                position = event.end
                for piece in piece_of(event):
                    yield piece
            if position < self.transcript.end:
                continue
            if self.failure is not None:
                raise self.failure
            if self.finish is not None:
                return
            await self._news.wait()

    async def ended(self) -> None:
        """Wait until it is over."""
        while not self.over:
            await self._news.wait()

    def seen(self, *, held: bool) -> None:
        """Whether, as Redis has it now, the process that makes it still does."""
        if held:
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = time.monotonic()

    def missing(self, seconds: float) -> bool:
        """Nobody has made it for so long, as far as is known here."""
        return self._missing_since is not None and time.monotonic() - self._missing_since > seconds

    def stop(self) -> None:
        """Break it off, if it is not over."""
        if self.task is not None and not self.over and not self._stopped:
            self._stopped = True
            self.task.cancel()

    def take(self, piece: Piece) -> None:
        """Add what the model said."""
        match piece:
            case TextDelta(text):
                self.append(events.DELTA, {"text": text})
            case ReasoningDelta(text):
                self.append(events.REASONING, {"text": text})
            case ToolCallDelta():
                index = piece.index
                if index not in self._opened:
                    self._opened.add(index)
                    opening = {"index": index, "id": piece.id or f"call_{index}", "name": piece.name or ""}
                    self.append(events.TOOL_CALL, opening)
                self.append(events.TOOL_CALL, {"index": index, "arguments": piece.arguments})

    def append(self, type_: str, data: Any) -> None:
        (self.writer or self.transcript).append(type_, data)
        self._tell()

    def end(self, how: Finish | Exception) -> None:
        """Whoever reads it is told, here and elsewhere; only the first end counts."""
        if self.over:
            return
        if isinstance(how, Finish):
            self.finish = how
        else:
            self.failure = how
        if self.writer is not None:
            self.write_end()
        self._tell()

    def write_to(self, writer: Writer) -> None:
        """Write for other processes from now on, what was said before in one piece."""
        self.writer = writer
        if self.over:
            self.write_end()

    def write_end(self) -> None:
        assert self.writer is not None  # noqa: S101 - for mypy
        self.writer.append(*told(self.finish or self.failure))

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def told(how: Finish | Exception | None) -> tuple[str, dict[str, Any]]:
    """An end as the call's log has it."""
    match how:
        case Finish(reason, target, usage):
            spent = usage and [usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.estimated]
            return events.COMPLETED, {"reason": reason, "target": [target.provider, target.model], "usage": spent}
        case ProviderError():
            return events.FAILED, {"code": how.code, "message": how.message, "retry_after": how.retry_after}
    return events.CANCELLED, {}


def heard(type_: str, data: Any) -> Finish | Exception:
    """The other way round. A failure that is not a provider's own is for each run to find out by itself."""
    if type_ == events.COMPLETED:
        return Finish(data["reason"], Target(*data["target"]), data["usage"] and Usage(*data["usage"]))
    if type_ == events.FAILED and data["code"] in _FAILURES:
        return _FAILURES[data["code"]](data["message"], retry_after=data["retry_after"])
    return SharedCallLost()
