"""Take in what a model says: through the screen, where answers are moderated, and as much as it may say."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from runstream.domain import events
from runstream.providers.base import Finished, Opened, Piece, ReasoningDelta, TextDelta, ToolCallDelta
from runstream.runs.attempt import Attempt

MOST_PARTS = 10_000
"""Events of an attempt: each tool call is one, and each change of kind, and a short one takes as much as a long one."""


class Intake:
    """One attempt's."""

    def __init__(self, attempt: Attempt, max_output_chars: int) -> None:
        self._attempt = attempt
        self._max_output_chars = max_output_chars

    async def take(self, head: Sequence[Piece], rest: AsyncIterator[Piece]) -> None:
        """Show readers what is said, until it ends or is not wanted any more; then the attempt has a finish reason.

        Raises what reading the rest raises, and ContentBlocked.
        """
        screen = self._attempt.screen
        if screen is None:
            await self._take_all(head, rest)
        else:
            async with aclosing(screen.pieces(head, rest)) as clean:
                await self._take_all((), clean)

    async def _take_all(self, head: Sequence[Piece], rest: AsyncIterator[Piece]) -> None:
        for piece in head:
            if self._take(piece):
                return
        async for piece in rest:
            if self._take(piece):
                return

    def _take(self, piece: Piece) -> bool:
        """Whether the rest is not wanted."""
        attempt = self._attempt
        if isinstance(piece, TextDelta):  # first, and not by a pattern: it comes for every token
            return self._take_text(piece.text)
        match piece:
            case ReasoningDelta(text):
                room = self._room()
                attempt.writer.append(events.REASONING, {"text": text[:room]})
                return self._full(len(text) > room)
            case ToolCallDelta():
                return self._take_tool_call(piece)
            case Opened(request_id):
                attempt.request_id = request_id
            case Finished(reason, usage):
                attempt.finish_reason, attempt.usage = reason, usage
        return False

    def _take_text(self, text: str) -> bool:
        room = self._room()
        if len(text) <= room:
            self._attempt.writer.append_text(text)
            return False
        self._attempt.writer.append_text(text[:room])
        return self._full(True)

    def _take_tool_call(self, piece: ToolCallDelta) -> bool:
        """Each call is opened once, before its arguments, whatever the provider repeats or leaves out."""
        attempt, index = self._attempt, piece.index
        if index not in attempt.tool_calls:
            call_id, name = piece.id or f"call_{index}", piece.name or ""
            if self._room() <= len(call_id) + len(name):
                return self._full(True)
            attempt.tool_calls.add(index)
            attempt.names += len(call_id) + len(name)
            attempt.writer.append(events.TOOL_CALL, {"index": index, "id": call_id, "name": name})
        room = self._room()
        attempt.writer.append(events.TOOL_CALL, {"index": index, "arguments": piece.arguments[:room]})
        return self._full(len(piece.arguments) > room)

    def _room(self) -> int:
        """How many characters the model may still say, of all kinds."""
        attempt = self._attempt
        if attempt.writer.transcript.parts >= MOST_PARTS:
            return 0
        return self._max_output_chars + attempt.opened_at - attempt.writer.transcript.end - attempt.names

    def _full(self, full: bool) -> bool:
        """Whether the model has said as much as it may, which then is why it finished."""
        if full:
            self._attempt.finish_reason = "max_output_chars"
        return full
