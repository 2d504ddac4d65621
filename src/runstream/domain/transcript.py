"""What one attempt of a run said, from its first event to its last."""

from collections.abc import Mapping, Sequence
from typing import Any

from runstream.domain.cursor import Cursor
from runstream.domain.events import COUNTED, DELTA, Event


class Transcript:
    """The events of one attempt in order, deltas that follow each other joined.

    Appending a token and asking for what came since a recent position cost the same however long the text is:
    the pieces of the last segment are joined only when somebody needs them.
    """

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt
        self.end = 0
        self._segments: list[_Segment] = []

    def append(self, type_: str, data: Mapping[str, Any]) -> None:
        """Add an event. A counted event without text adds nothing."""
        field = COUNTED.get(type_)
        if field is None:
            self._segments.append(_Segment(type_, self.end, self.end + 1, data, []))
            self.end += 1
        else:
            self.append_text(type_, data[field])

    def append_text(self, type_: str, text: str) -> None:
        """Add a counted event by its text alone."""
        if not text:
            return
        last = self._segments[-1] if self._segments else None
        if last is None or last.type != type_:
            last = _Segment(type_, self.end, self.end, {}, [])
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

    def text(self) -> str:
        """The model's text, without anything else."""
        return "".join(segment.text() for segment in self._segments if segment.type == DELTA)

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
    """One event, or a run of deltas whose `pieces` are in order."""

    __slots__ = ("data", "end", "pieces", "start", "type")

    def __init__(self, type_: str, start: int, end: int, data: Mapping[str, Any], pieces: list[str]) -> None:
        self.type = type_
        self.start = start
        self.end = end
        self.data = data
        self.pieces = pieces

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
        field = COUNTED.get(self.type)
        if field is None:
            return Event(attempt, self.start, self.end, self.type, self.data)
        if position <= self.start:
            return Event(attempt, self.start, self.end, self.type, {field: self.text()})
        return Event(attempt, position, self.end, self.type, {field: self.tail(position)})
