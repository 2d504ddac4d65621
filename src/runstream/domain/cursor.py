"""A place in a run's transcript."""

import re
from typing import NamedTuple, Self

from runstream.domain.errors import InvalidCursor

_FORM = re.compile(r"([0-9]{1,9})-([0-9]{1,15})")


class Cursor(NamedTuple):
    """`attempt`, and how many positions of its transcript lie before this place. Ordered as a tuple is.

    How many positions an event takes is said by `events.counted_field`. The cursor of an event is the place after
    it: its SSE id, and its entry's id in the Redis stream.
    """

    attempt: int
    position: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read '<attempt>-<position>'. Raises InvalidCursor."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise InvalidCursor("A cursor is the id of an event of this run, such as '1-57'.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.attempt}-{self.position}"


START = Cursor(0, 0)
