"""What a key is, and what is kept of it."""

import secrets
from hashlib import sha256

KEY_PREFIX = "rs_"
HINT = 8
"""Characters of a key that are shown in lists."""


def new_key() -> str:
    """Its prefix and 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> bytes:
    """A key is random, so one round of SHA-256 is as hard to turn back as the key is to guess."""
    return sha256(key.encode()).digest()
