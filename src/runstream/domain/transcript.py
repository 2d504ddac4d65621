"""What one attempt of a run said, from its first event to its last."""

from collections.abc import Mapping, Sequence
from typing import Any

from runstream.domain.cursor import Cursor
from runstream.domain.events import COUNTED, DELTA, REASONING, TOOL_CALL, Event, counted_field


class Transcript:
    """The events of one attempt in order, deltas of one kind that follow each other joined.

    Pieces of a tool call's arguments are joined with those of the same call only. Appending a token and asking for
    what came since a recent position cost the same however long the text is: the pieces of the last segment are
    joined only when somebody needs them.
    """

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt
        self.end = 0
        self._segments: list[_Segment] = []

    def append(self, type_: str, data: Mapping[str, Any]) -> None:
        """Add an event. A counted event without text adds nothing."""
        field = counted_field(type_, data)
        if field is None:
            self._segments.append(_Segment(type_, self.end, self.end + 1, data, None))
            self.end += 1
        else:
            self.append_text(type_, data[field], data.get("index"))

    def append_text(self, type_: str, text: str, index: int | None = None) -> None:
        """Add a counted event by its text alone; `index` is that of the tool call whose arguments it is a piece of."""
        if not text:
            return
        last = self._segments[-1] if self._segments else None
        if last is None or last.type != type_ or last.index != index:
            last = _Segment(type_, self.end, self.end, {}, index)
            self._segments.append(last)
        last.pieces.append(text)
        self.end = last.end = last.end + len(text)

    def since(self, position: int) -> list[Event]:
        """The events after `position`, the first one cut there if it began before."""
        found: list[Event] = []
        for segment in reversed(self._segments):
            if segment.end <= position:
                break
            found.append(segment.event(self.attempt, position))
        found.reverse()
        return found

    def after(self, cursor: Cursor) -> list[Event]:
        """The events that a reader at `cursor` has not seen: all of them if it saw an older attempt."""
        if cursor.attempt > self.attempt:
            return []
        return self.since(cursor.position if cursor.attempt == self.attempt else 0)

    @property
    def characters(self) -> int:
        """How much the model has said, of all kinds."""
        return sum(segment.end - segment.start for segment in self._segments if segment.type in COUNTED)

    @property
    def parts(self) -> int:
        """How many events it is, at the least."""
        return len(self._segments)

    def text(self) -> str:
        """The model's text, without anything else."""
        return "".join(segment.text() for segment in self._segments if segment.type == DELTA)

    def reasoning(self) -> str:
        return "".join(segment.text() for segment in self._segments if segment.type == REASONING)

    def tool_calls(self) -> list[dict[str, Any]]:
        """The calls in the form of chat completions, by their index; arguments that were cut short are no JSON."""
        opened: dict[int, Mapping[str, Any]] = {}
        arguments: dict[int, list[str]] = {}
        for segment in self._segments:
            if segment.type == TOOL_CALL:
                if segment.index is None:
                    opened[segment.data["index"]] = segment.data
                else:
                    arguments.setdefault(segment.index, []).append(segment.text())
        return [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": "".join(arguments.get(index, ()))},
            }
            for index, call in sorted(opened.items())
        ]

    def dump(self) -> list[list[Any]]:
        """A JSON form that `load` takes: `[[type, data], ...]`."""
        return [[event.type, event.data] for event in self.since(0)]

    @classmethod
    def load(cls, attempt: int, events: Sequence[Sequence[Any]]) -> "Transcript":
        transcript = cls(attempt)
        for type_, data in events:
            transcript.append(type_, data)
        return transcript


class _Segment:
    """One event, or a run of deltas of one kind whose `pieces` are in order.

    `index` is that of the tool call whose arguments the pieces are; the event that opens a call has it in its data.
    """

    __slots__ = ("data", "end", "index", "pieces", "start", "type")

    def __init__(self, type_: str, start: int, end: int, data: Mapping[str, Any], index: int | None) -> None:
        self.type = type_
        self.start = start
        self.end = end
        self.data = data
        self.index = index
        self.pieces: list[str] = []

    def text(self) -> str:
        if len(self.pieces) > 1:
            self.pieces = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""

    def tail(self, position: int) -> str:
        """The text after `position`, found from the end so that a recent position costs little."""
        if position == self.end - len(self.pieces[-1]):
            return self.pieces[-1]
        pieces: list[str] = []
        start = self.end
        for piece in reversed(self.pieces):
            if start <= position:
                break
            start -= len(piece)
            pieces.append(piece)
        pieces.reverse()
        return "".join(pieces)[max(0, position - start) :]

    def event(self, attempt: int, position: int) -> Event:
        if not self.pieces:
            return Event(attempt, self.start, self.end, self.type, self.data)
        start, text = (self.start, self.text()) if position <= self.start else (position, self.tail(position))
        field = COUNTED[self.type]
        data = {field: text} if self.index is None else {"index": self.index, field: text}
        return Event(attempt, start, self.end, self.type, data)
