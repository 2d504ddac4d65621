"""An account's keys, and which of them is to be used next."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runstream.metrics import KEYS_RESTED

REFUSED = frozenset({401, 429})
"""What a server answers to a key that it does not take, or not now: another key may do."""
_UNAUTHORIZED = 401
_REST = {401: 60.0, 429: 1.0}
"""Seconds, where the server does not say for how long."""
_LONGEST_REST = 3600.0
_FRESH = 60.0
"""Seconds for which a server's word on what is left counts: limits are by the minute."""
_LEFT = ("x-ratelimit-remaining-tokens", "anthropic-ratelimit-tokens-remaining")


@dataclass(slots=True)
class _Key:
    key: str
    rests_until: float = 0.0
    left: float = float("inf")
    left_at: float = 0.0
    used_at: float = 0.0

    def headroom(self, now: float) -> float:
        return self.left if now - self.left_at < _FRESH else float("inf")


class KeyRing:
    """Gives the key with the most headroom that does not rest; where several have as much, the one unused for longest.

    Where all of them rest, it gives the one that does so for the shortest time: no call fails for want of a key.
    """

    def __init__(self, name: str, keys: Sequence[str], *, now: Callable[[], float] = time.monotonic) -> None:
        """`name` is the account's. `now` is in seconds."""
        self._name = name
        self._now = now
        self._keys = [_Key(key) for key in keys or ("",)]

    @property
    def all(self) -> Sequence[str]:
        return [key.key for key in self._keys]

    def next(self) -> str:
        now = self._now()
        key = min(self._keys, key=lambda key: (max(key.rests_until, now), -key.headroom(now), key.used_at))
        key.used_at = now
        return key.key

    def rests(self) -> bool:
        """Whether all keys rest."""
        now = self._now()
        return all(key.rests_until > now for key in self._keys)

    def heard(self, used: str, status: int, headers: Mapping[str, str], retry_after: float | None) -> None:
        """Take in what the server answered to a key; `retry_after` is in seconds."""
        now = self._now()
        key = next(key for key in self._keys if key.key == used)
        left = next((headers[name] for name in _LEFT if name in headers), "")
        if left.isdecimal():
            key.left, key.left_at = float(left[:18]), now
        key.rests_until = 0.0
        if status in REFUSED:
            rest = _REST[status] if retry_after is None else min(retry_after, _LONGEST_REST)
            key.rests_until = now + rest
            KEYS_RESTED.labels(self._name, "refused" if status == _UNAUTHORIZED else "limited").inc()
