"""Signatures as Standard Webhooks 1.0 has them.

    webhook-id: evt_01k...
    webhook-timestamp: 1674087231
    webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4= v1,...

Each is HMAC-SHA256 of `<id>.<timestamp>.<body>`, by one of the webhook's secrets. A receiver takes any that fits.
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterable

_PREFIX = "whsec_"
_BYTES = 32
"""Of 24 to 64."""


def new_secret() -> str:
    """`whsec_` and 256 random bits."""
    return _PREFIX + b64encode(secrets.token_bytes(_BYTES)).decode()


def headers(message_id: str, timestamp: int, body: bytes, signing: Iterable[str]) -> dict[str, str]:
    """What says of `body` who sent it, and when: `timestamp` is in seconds since the epoch."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(_signature(secret, signed) for secret in signing),
    }


def _signature(secret: str, signed: bytes) -> str:
    key = b64decode(secret.removeprefix(_PREFIX))
    return "v1," + b64encode(hmac.digest(key, signed, "sha256")).decode()
