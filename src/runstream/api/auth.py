"""Who asks: a key names a tenant and a user."""

import secrets
import time
from dataclasses import dataclass
from hashlib import sha256

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
    """Looks keys up, each at most once a second."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._known: dict[bytes, tuple[float, Principal | None]] = {}

    async def principal(self, key: str) -> Principal | None:
        hashed = hash_key(key)
        now = time.monotonic()
        known = self._known.get(hashed)
        if known is not None and now - known[0] < _TRUST:
            return known[1]
        found = await self._store.find(hashed)
        principal = Principal(*found) if found else None
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[hashed] = (now, principal)
        return principal
