"""A data key, and what is sealed by it.

    sealed:v1:dk_01k...:<base64 of nonce, ciphertext and tag>

AES-256-GCM with a nonce of 96 random bits: good for 2**32 values by one key (NIST SP 800-38D, 8.3). The place of a
value is its associated data, so that it opens there and nowhere else.
"""

import os
import secrets
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from runstream.domain.errors import ContentUnreadable

MARK: Final = "sealed:"
"""What is sealed begins with it."""
_VERSION = f"{MARK}v1:"
_NONCE = 12
LENGTH: Final = 32
"""Bytes of a key, be it a data key or a master key."""


def new_key() -> bytes:
    return secrets.token_bytes(LENGTH)


class DataKey:
    def __init__(self, key_id: str, key: bytes) -> None:
        self.id = key_id
        self._aes = AESGCM(key)
        self._head = prefix(key_id)

    def seal(self, value: bytes, place: str) -> str:
        nonce = os.urandom(_NONCE)
        return self._head + b64encode(nonce + self._aes.encrypt(nonce, value, _bound(place))).decode()

    def open(self, sealed: str, place: str) -> bytes:
        """Raises ContentUnreadable where it was sealed by another key, for another place, or is not what it was."""
        try:
            box = b64decode(sealed[len(self._head) :], validate=True)
            return self._aes.decrypt(box[:_NONCE], box[_NONCE:], _bound(place))
        except (InvalidTag, NotBase64, ValueError):  # the last one: it is too short
            raise ContentUnreadable from None


def prefix(key_id: str) -> str:
    """What all that this key sealed begins with."""
    return f"{_VERSION}{key_id}:"


def key_of(sealed: str) -> str:
    """The id of the key that sealed it. Raises ContentUnreadable."""
    key_id, colon, _ = sealed.removeprefix(_VERSION).partition(":")
    if not sealed.startswith(_VERSION) or not colon:
        raise ContentUnreadable
    return key_id


def _bound(place: str) -> bytes:
    return _VERSION.encode() + place.encode()
