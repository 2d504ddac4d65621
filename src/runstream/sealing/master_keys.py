"""The keys that the environment gives: they wrap data keys and nothing else.

A data key is wrapped by AES-256-GCM, with whose and which it is as associated data: as the AWS Encryption SDK does it
with a wrapping key of one's own (https://docs.aws.amazon.com/encryption-sdk/latest/developer-guide/, "Raw AES
keyrings"). The nonce, 96 random bits, stands before the ciphertext.
"""

import hmac
import os
from base64 import b64decode
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from runstream.domain.errors import ContentUnreadable
from runstream.sealing.data_key import LENGTH

_NONCE = 12
_ID_BYTES = 8


class MasterKeys:
    """The first one wraps; all of them unwrap."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """At least one, each of 32 bytes."""
        self._keys = {_id(key): AESGCM(key) for key in keys}
        self.used = _id(keys[0])

    @property
    def ids(self) -> Sequence[str]:
        """The one that is used first."""
        return list(self._keys)

    def wrap(self, tenant: str, key_id: str, key: bytes) -> bytes:
        """By the one that is `used`."""
        nonce = os.urandom(_NONCE)
        return nonce + self._keys[self.used].encrypt(nonce, key, _bound(tenant, key_id))

    def unwrap(self, tenant: str, key_id: str, master: str, wrapped: bytes) -> bytes:
        """Raises ContentUnreadable where that master key is not here, or it is not what it wrapped."""
        by = self._keys.get(master)
        if by is None:
            raise ContentUnreadable
        try:
            return by.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], _bound(tenant, key_id))
        except (InvalidTag, ValueError):
            raise ContentUnreadable from None


def decoded(text: str) -> bytes:
    """A key as it is given. Raises ValueError, which says what is wrong and nothing of the key."""
    try:
        key = b64decode(text, validate=True)
    except ValueError:  # not base64, or not ASCII
        key = b""
    if len(key) != LENGTH:
        raise ValueError("a key is the base64 of 32 bytes, as 'openssl rand -base64 32' makes it") from None
    return key


def _bound(tenant: str, key_id: str) -> bytes:
    return f"data key v1:{tenant}/{key_id}".encode()


def _id(key: bytes) -> str:
    """Names the key, and says nothing of it: what is random cannot be guessed from a hash."""
    return "mk_" + hmac.digest(key, b"runstream master key id", "sha256")[:_ID_BYTES].hex()
