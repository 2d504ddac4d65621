"""An account's keys, and which of them is to be used next."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from runstream.metrics import KEYS_RESTED
from runstream.providers.key_file import KeyFile

REFUSED = frozenset({401, 429})
"""What a server answers to a key that it does not take, or not now: another key may do."""
_UNAUTHORIZED = 401
_REST = {401: 60.0, 429: 1.0}
"""Seconds, where the server does not say for how long."""
_LONGEST_REST = 3600.0
_FRESH = 60.0
"""Seconds for which a server's word on what is left counts: limits are by the minute."""
_LEFT = ("x-ratelimit-remaining-tokens", "anthropic-ratelimit-tokens-remaining")
_RETIRED = 100
"""Keys that are remembered once they are retired."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Key:
    key: str
    rests_until: float = 0.0
    left: float = float("inf")
    left_at: float = 0.0
    used_at: float = 0.0

    def order(self, now: float) -> tuple[float, float, float]:
        """The least is used next: the soonest to have rested, then the most headroom, then the longest unused."""
        headroom = self.left if now - self.left_at < _FRESH else float("inf")
        return max(self.rests_until, now), -headroom, self.used_at


class KeyRing:
    """Gives the key with the most headroom that does not rest; where several have as much, the one unused for longest.

    Where all of them rest, it gives the one that does so for the shortest time: no call fails for want of a key.
    Keys that come to its file are used from the next call on. One that went from it is given to no new call; those
    that have it go on, and what was asked for with it can still be asked about.
    """

    def __init__(
        self,
        name: str,
        keys: Sequence[str],
        file: KeyFile | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name` is the account's. `now` is in seconds."""
        self._name = name
        self._now = now
        self._given = keys
        self._file = file
        self._retired: list[str] = []
        self._keys: list[_Key] = []
        self._take([*keys, *(file.keys if file else ())])

    @property
    def all(self) -> Sequence[str]:
        return [key.key for key in self._current()]

    @property
    def known(self) -> Sequence[str]:
        """The retired ones too."""
        return [*self.all, *self._retired]

    def next(self) -> str:
        now = self._now()
        key = min(self._current(), key=lambda key: key.order(now))
        key.used_at = now
        return key.key

    def usable(self) -> Sequence[str]:
        """Those that do not rest, the one that `next` would give first; where all of them do, that one alone."""
        now = self._now()
        keys = sorted(self._current(), key=lambda key: key.order(now))
        return [key.key for key in keys if key.rests_until <= now] or [keys[0].key]

    def rests(self) -> bool:
        """Whether all keys were refused or limited just now, and rest: a call is better made elsewhere."""
        now = self._now()
        return all(key.rests_until > now for key in self._current())

    def heard(self, used: str, status: int, headers: Mapping[str, str], retry_after: float | None) -> None:
        """Take in what the server answered to a key; `retry_after` is in seconds."""
        now = self._now()
        key = next((key for key in self._keys if key.key == used), None)
        if key is None:  # retired meanwhile
            return
        left = next((headers[name] for name in _LEFT if name in headers), "")
        if left.isdecimal():
            key.left, key.left_at = float(left[:18]), now
        key.rests_until = 0.0
        if status in REFUSED:
            rest = _REST[status] if retry_after is None else min(retry_after, _LONGEST_REST)
            key.rests_until = now + rest
            KEYS_RESTED.labels(self._name, "refused" if status == _UNAUTHORIZED else "limited").inc()

    def _current(self) -> Sequence[_Key]:
        if self._file is not None and self._file.changed():
            before = {key.key for key in self._keys}
            self._take([*self._given, *self._file.keys])
            after = {key.key for key in self._keys}
            log.info(
                "keys_changed",
                provider=self._name,
                added=len(after - before),
                retired=len(before - after),
                of=len(after),
            )
        return self._keys

    def _take(self, keys: Iterable[str]) -> None:
        """What is known of a key that stays, stays."""
        had = {key.key: key for key in self._keys}
        self._keys = [had.get(key) or _Key(key) for key in dict.fromkeys(keys)] or [_Key("")]
        taken = {key.key for key in self._keys}
        retired = [key for key in [*self._retired, *had] if key not in taken]
        self._retired = list(dict.fromkeys(retired))[-_RETIRED:]
