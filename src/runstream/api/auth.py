"""Who asks: a key names a tenant and a user."""

import asyncio
import secrets
import time
from dataclasses import dataclass
from hashlib import sha256

from runstream.domain.errors import Unavailable
from runstream.storage.keys import KeyStore

_TRUST = 1.0
"""Seconds that an answer about a key is used again: a revoked key works no longer than that."""
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Principal:
    tenant: str
    user: str


def new_key() -> str:
    """`rs_` and 256 random bits."""
    return "rs_" + secrets.token_urlsafe(32)


def hash_key(key: str) -> bytes:
    """A key is random, so one round of SHA-256 is as hard to turn back as the key is to guess."""
    return sha256(key.encode()).digest()


class KeyCheck:
    """Looks keys up, each at most once a second, however many requests come with it at once."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._known: dict[bytes, tuple[float, asyncio.Task[Principal | None]]] = {}

    async def principal(self, key: str) -> Principal | None:
        """Raises Unavailable."""
        hashed = hash_key(key)
        now = time.monotonic()
        known = self._known.get(hashed)
        if known is None or now - known[0] >= _TRUST:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[hashed] = (now, asyncio.create_task(self._look_up(hashed)))
        try:
            return await asyncio.shield(known[1])
        except Unavailable:
            self._known.pop(hashed, None)
            raise

    async def _look_up(self, hashed: bytes) -> Principal | None:
        found = await self._store.find(hashed)
        return Principal(*found) if found else None
