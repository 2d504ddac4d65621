"""The secrets that run tokens are signed with, as Postgres has them."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from runstream.domain.audit import Action, Actor
from runstream.domain.errors import InvalidField
from runstream.domain.ids import new_id
from runstream.storage.together import Together
from runstream.storage.token_secrets import TokenSecretStore

_TRUST = 1.0
"""Seconds that what was read counts for: a secret that was ended works no longer than that."""
_BYTES = 32
_MAX_OVERLAP = timedelta(days=1)
"""As long as a token may live."""


class Secret(NamedTuple):
    id: str
    value: bytes


class TokenSecrets:
    """Read once a second at most, by all who ask together, and not at all where there are no run tokens."""

    def __init__(self, store: TokenSecretStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._good: Mapping[str, bytes] = {}
        self._read_at = clock() - _TRUST
        self._ask = Together(self._read)

    async def good(self) -> Mapping[str, bytes]:
        """By their ids those that have not ended. Raises Unavailable."""
        if self._clock() - self._read_at >= _TRUST:
            await self._ask(None)
        return self._good

    async def newest(self) -> Secret:
        """What tokens are signed with; the first is made when it is asked for. Raises Unavailable."""
        good = await self.good()
        if not good:
            await self._store.add_first(*_new())
            self._read_at = self._clock() - _TRUST
            good = await self.good()
        return Secret(*list(good.items())[-1])

    async def _read(self, asked: Sequence[None]) -> Sequence[None]:
        now = self._clock()
        if now - self._read_at >= _TRUST:
            self._good = await self._store.good()
            self._read_at = now
        return asked


async def rotate(store: TokenSecretStore, overlap: timedelta, *, by: Actor | None = None) -> None:
    """Have new tokens signed with a new secret; older ones are good until the `overlap` ends, a day at most.

    Raises InvalidField, Unavailable.
    """
    if not timedelta() <= overlap <= _MAX_OVERLAP:
        raise InvalidField("No token lives longer than a day: an overlap is of 24h at most.", param="overlap")
    new = _new()
    entry = by and by.entry(Action.TOKEN_SECRET_ROTATED, tenant=None, target=new.id, overlap=overlap.total_seconds())
    await store.rotate(*new, overlap, entry=entry)


def _new() -> Secret:
    return Secret(new_id("tks"), secrets.token_bytes(_BYTES))
