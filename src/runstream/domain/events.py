"""What a reader of a run is told."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from runstream.domain.cursor import Cursor

STARTED: Final = "run.started"
DELTA: Final = "run.delta"
REASONING: Final = "run.reasoning"
TOOL_CALL: Final = "run.tool_call"
RESTARTED: Final = "run.restarted"
COMPLETED: Final = "run.completed"
FAILED: Final = "run.failed"
CANCELLED: Final = "run.cancelled"

TERMINAL: Final = frozenset({COMPLETED, FAILED, CANCELLED})

COUNTED: Final[Mapping[str, str]] = {DELTA: "text", REASONING: "text", TOOL_CALL: "arguments"}
"""What a model says, and the field whose characters are counted."""


def counted_field(type_: str, data: Mapping[str, Any]) -> str | None:
    """The field by whose characters an event moves the position; None where it moves it by one.

    Text, reasoning and the pieces of a tool call's arguments (`index`, `arguments`) take one position for each Unicode
    code point. Every other event takes one, and so does the one that opens a tool call (`index`, `id`, `name`).
    """
    field = COUNTED.get(type_)
    return field if field in data else None


class Event(NamedTuple):
    """One event of an attempt; it takes the positions from `start` up to `end`."""

    attempt: int
    start: int
    end: int
    type: str
    data: Mapping[str, Any]

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.attempt, self.end)

    @property
    def terminal(self) -> bool:
        return self.type in TERMINAL

    def after(self, position: int) -> "Event":
        """The part of this event that lies after `position`, which is inside it. Only counted events have parts."""
        field = COUNTED[self.type]
        data = {**self.data, field: self.data[field][position - self.start :]}
        return Event(self.attempt, position, self.end, self.type, data)

    def parts(self, most: int) -> Iterator["Event"]:
        """The same in events that take `most` positions at the most."""
        if self.end - self.start <= most:
            yield self
            return
        field = COUNTED[self.type]
        for start in range(self.start, self.end, most):
            end = min(start + most, self.end)
            data = {**self.data, field: self.data[field][start - self.start : end - self.start]}
            yield Event(self.attempt, start, end, self.type, data)
