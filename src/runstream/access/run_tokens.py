"""Tokens for one run, to be handed to a tab or a phone. All that is known of one is in it, signed."""

import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

import jwt
from jwt.types import Options

from runstream.access.check import KeyCheck
from runstream.access.token_secrets import TokenSecrets
from runstream.domain.ids import is_id, new_id
from runstream.domain.principal import Kind, OneRun, Owner, Principal, RunAct

PREFIX: Final = "rt_"
_ALGORITHM: Final = "HS256"
SHORTEST_LIFE, LONGEST_LIFE = 60, 24 * 3600
"""Seconds."""
_OPTIONS = Options(require=["exp", "jti", "run", "tenant", "sub", "access"])


class Access(StrEnum):
    READ = "read"
    READ_AND_CANCEL = "read_and_cancel"


_MAY: Final = {
    Access.READ: frozenset({RunAct.READ}),
    Access.READ_AND_CANCEL: frozenset({RunAct.READ, RunAct.CANCEL}),
}


class Minted(NamedTuple):
    """`expires_at` is in Unix time."""

    token: str
    expires_at: int


class RunTokens:
    """A token ends when it was made to, and before that with whatever it was asked for with: a key that is revoked or
    expires, within a second, and a token of an identity provider's."""

    def __init__(self, secrets: TokenSecrets, keys: KeyCheck, *, clock: Callable[[], float] = time.time) -> None:
        self._secrets = secrets
        self._keys = keys
        self._clock = clock

    async def mint(self, asking: Principal, run_id: str, owner: Owner, access: Access, seconds: int) -> Minted:
        """A token for the run of this owner, which `asking` may read. Raises Unavailable."""
        ends = self._clock() + seconds
        expires_at = int(ends if asking.until is None else min(ends, asking.until))
        claims = {
            "jti": new_id("tok"),
            "run": run_id,
            "tenant": owner.tenant,
            "sub": owner.user,
            "access": access,
            "exp": expires_at,
            **({"key": asking.credential} if is_id("key", asking.credential) else {}),
        }
        secret = await self._secrets.newest()
        signed = jwt.encode(claims, secret.value, _ALGORITHM, headers={"kid": secret.id})
        return Minted(PREFIX + signed, expires_at)

    async def principal(self, token: str) -> Principal | None:
        """Whom the token stands for: the run's user, for that run alone. None where it is not good.

        Raises Unavailable.
        """
        claims = await self._verified(token.removeprefix(PREFIX))
        if claims is None or ("key" in claims and not await self._keys.is_good(claims["key"])):
            return None
        only = OneRun(claims["run"], _MAY[claims["access"]])
        return Principal(
            claims["jti"], Kind.USER, claims["tenant"], claims["sub"], frozenset(), only=only, until=claims["exp"]
        )

    async def _verified(self, signed: str) -> Mapping[str, Any] | None:
        secrets = await self._secrets.good()
        try:
            secret = secrets.get(jwt.get_unverified_header(signed).get("kid", ""))
            return jwt.decode(signed, secret, algorithms=[_ALGORITHM], options=_OPTIONS) if secret else None
        except jwt.PyJWTError:
            return None
