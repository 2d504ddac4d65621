"""The simulator's own record of the calls that were made to it, to be held against what somebody was billed for."""

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from runstream.providers.simulated.script import last_text

_KEPT = 50_000
_MAX_ASKED = 100


class Call:
    """`ending` is open, refused, closed (by the client, before the end), or the way in which the answer ended."""

    __slots__ = ("asked", "began", "ended", "ending", "model", "tokens")

    def __init__(self, model: str, asked: str) -> None:
        self.model = model
        self.asked = asked[:_MAX_ASKED]
        self.began = time.time()
        self.ended: float | None = None
        self.ending = "open"
        self.tokens = 0

    def end(self, ending: str, tokens: int) -> None:
        self.ending, self.tokens, self.ended = ending, tokens, time.time()

    def told(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Calls:
    """The last 50,000 of them. `made` counts all."""

    def __init__(self) -> None:
        self.made = 0
        self._kept: deque[Call] = deque(maxlen=_KEPT)

    def begin(self, body: Mapping[str, Any]) -> Call:
        call = Call(str(body.get("model", "")), last_text(body))
        self.made += 1
        self._kept.append(call)
        return call

    def told(self) -> dict[str, Any]:
        return {"made": self.made, "calls": [call.told() for call in self._kept]}
