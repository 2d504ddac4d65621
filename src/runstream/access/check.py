"""Whose a key is. Known in each process, and asked of Postgres once a second for all keys together."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import structlog

from runstream.access.secrets import hash_key
from runstream.domain.errors import Unavailable
from runstream.domain.principal import Principal
from runstream.storage.keys import Found, KeyStore, Name
from runstream.storage.together import Together

_TRUST = 1.0
"""Seconds that what is known counts for: a revoked key works no longer than that."""
_WINDOW = 60.0
"""Seconds for which a changed key is told of. It is longer than _FORGET by what a change may take to be committed."""
_FORGET = 20.0
"""Seconds without a look at what has changed, after which nothing that is known counts."""
_REMEMBERED = 20_000
"""Keys that are good, at about half a kilobyte each; and as many that are not, for a second."""
_NOTED = 60.0
"""Seconds within which the use of a key is written once."""
_WRITE_INTERVAL = 10.0
_LAST = 2.0
"""Seconds that a process which stops waits for that."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Known:
    principal: Principal
    until: float
    version: datetime | None
    note_at: float


class KeyCheck:
    """Looks a key up when it is first used, and at most once a second which of all keys have changed since.

    There is one question at a time: what is learned of a key is never older than what is known of changes.
    """

    def __init__(self, store: KeyStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[Name, _Known] = {}
        self._refused: set[Name] = set()
        self._looked = -_FORGET
        self._used: set[str] = set()
        self._ask = Together(self._look)

    async def principal(self, key: str) -> Principal | None:
        """None where the key is unknown, expired or revoked: all of them take the same way. Raises Unavailable."""
        known = await self._find(hash_key(key))
        if known is None:
            return None
        now = self._clock()
        if now >= known.note_at:
            known.note_at = now + _NOTED
            self._used.add(known.principal.credential)
        return known.principal

    async def is_good(self, key_id: str) -> bool:
        """Whether the key of this id still is. It counts as no use of the key. Raises Unavailable."""
        return await self._find(key_id) is not None

    async def run(self) -> None:
        """Write now and then which keys were used, until cancelled; then once more."""
        try:
            while True:
                await asyncio.sleep(_WRITE_INTERVAL)
                await self.write_uses()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST):
                    await self.write_uses()

    async def write_uses(self) -> None:
        used, self._used = self._used, set()
        try:
            if used:
                await self._store.used(used, _NOTED)
        except Unavailable as error:
            self._used |= used
            log.warning("key_uses_not_written", error=error.message)

    async def _find(self, name: Name) -> _Known | None:
        now = self._clock()
        known = self._known.get(name)
        if known is None or now >= known.until or now - self._looked >= _TRUST:
            if name in self._refused and now - self._looked < _TRUST:
                return None
            known = await self._ask(name)
        return known

    async def _look(self, asked: Sequence[Name]) -> Sequence[_Known | None]:
        now = self._clock()
        if now - self._looked >= _TRUST:
            await self._forget_changed(now)
        unknown = {name for name in asked if not self._knows(name, now)} - self._refused
        if unknown:
            good = await self._store.find(unknown)
            found: dict[Name, Found] = {name: each for each in good for name in (each.hash, each.principal.credential)}
            self._make_room()
            for name in unknown:
                if each := found.get(name):
                    until = float("inf") if each.seconds is None else now + each.seconds
                    self._known[name] = _Known(each.principal, until, each.version, now)
                else:
                    self._known.pop(name, None)
                    self._refused.add(name)
        return [self._known.get(name) for name in asked]

    async def _forget_changed(self, now: float) -> None:
        if now - self._looked >= _FORGET:
            self._known.clear()
        elif self._known:
            for name, version in (await self._store.changed(_WINDOW)).items():
                if (known := self._known.get(name)) and known.version != version:
                    del self._known[name]
        self._refused.clear()
        self._looked = now

    def _knows(self, name: Name, now: float) -> bool:
        known = self._known.get(name)
        return known is not None and now < known.until

    def _make_room(self) -> None:
        for oldest in list(islice(self._known, max(0, len(self._known) - _REMEMBERED))):
            del self._known[oldest]
        if len(self._refused) >= _REMEMBERED:
            self._refused.clear()
