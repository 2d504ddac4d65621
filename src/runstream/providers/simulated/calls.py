"""The simulator's own record of the calls that were made to it, to be held against what somebody was billed for."""

import time
from collections import deque
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from runstream.providers.simulated.script import last_text

_KEPT = 50_000
_MAX_ASKED = 100


class Call:
    """`ending` is open, refused, closed (by the client, before the end), or the way in which the answer ended.

    Of its `key` it has the beginning of a hash alone: see `named`.
    """

    __slots__ = ("asked", "began", "ended", "ending", "input_tokens", "key", "model", "number", "tokens")

    def __init__(self, number: int, key: str, model: str, asked: str) -> None:
        self.number = number
        self.key = named(key)
        self.model = model
        self.asked = asked[:_MAX_ASKED]
        self.began = time.time()
        self.ended: float | None = None
        self.ending = "open"
        self.input_tokens = 0
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

    def begin(self, number: int, key: str, body: Mapping[str, Any]) -> Call:
        self.made += 1
        call = Call(number, key, str(body.get("model", "")), last_text(body))
        self._kept.append(call)
        return call

    def spent(self) -> dict[str, int]:
        """Tokens read and sent in the calls that have ended and were not refused."""
        ended = [call for call in self._kept if call.ending not in {"open", "refused"}]
        return {"input": sum(call.input_tokens for call in ended), "output": sum(call.tokens for call in ended)}

    def told(self) -> dict[str, Any]:
        return {"made": self.made, "calls": [call.told() for call in self._kept]}


def named(key: str) -> str:
    """What the record calls a key."""
    return sha256(key.encode()).hexdigest()[:8]
