"""Names for what we make, ordered by the time they were made at."""

import re
import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_ID = re.compile(rf"[a-z]+_[{_ALPHABET}]{{26}}")


def new_id(prefix: str, now: float | None = None) -> str:
    """`<prefix>_` and 26 characters, as a ULID has them: 48 bits of milliseconds, then 80 random bits."""
    return _named(prefix, time.time() if now is None else now, secrets.randbits(80))


def first_id(prefix: str, at: float) -> str:
    """What no name that was made at that time or later comes before."""
    return _named(prefix, at, 0)


def _named(prefix: str, at: float, bits: int) -> str:
    number = (int(at * 1000) << 80) | bits
    return f"{prefix}_" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def is_id(prefix: str, text: str) -> bool:
    """Whether `text` could be such a name: one that could not is not looked for."""
    return text.startswith(f"{prefix}_") and _ID.fullmatch(text) is not None
