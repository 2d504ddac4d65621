"""Whom a token of an identity provider's stands for. It is verified once, and known until it ends."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from hashlib import sha256
from itertools import islice
from typing import Any, Final, NamedTuple

import jwt
from jwt.types import Options

from runstream.access.issuers import Issuer
from runstream.domain.errors import InvalidClaims
from runstream.domain.principal import Principal

_LONGEST = 8192
"""Characters of a token."""
_PARTS = 3
_LATEST = 253_402_300_799
"""The last second of the year 9999, in Unix time."""
_REMEMBERED = 20_000
_CLAIMED = Options(verify_signature=False)
_VERIFIED = Options(require=["exp", "iss", "aud"], enforce_minimum_key_length=True)
_PREFIX: Final = "jwt_"


class _Known(NamedTuple):
    principal: Principal
    until: float
    issuer: Issuer
    version: int


class JwtCheck:
    """What a token says of itself decides which of the keys is tried, and nothing else: the issuer has to be one of
    ours, the key one of that issuer's, and the algorithm the one that this key is for."""

    def __init__(
        self,
        issuers: Collection[Issuer],
        has_tenant: Callable[[str], Awaitable[bool]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuers = {issuer.name: issuer for issuer in issuers}
        self._has_tenant = has_tenant
        self._clock = clock
        self._known: dict[bytes, _Known] = {}

    async def principal(self, token: str) -> Principal | None:
        """None where the token is not good. Raises InvalidClaims, and Unavailable where no key is known yet."""
        if not self._issuers or len(token) > _LONGEST or token.count(".") != _PARTS - 1:
            return None
        digest = sha256(token.encode())
        known = self._known.get(digest.digest())
        if known and self._clock() < known.until and known.version == known.issuer.keys.version:
            return known.principal
        self._known.pop(digest.digest(), None)
        verified = await self._verified(token, _PREFIX + digest.hexdigest()[:32])
        if verified is None:
            return None
        for oldest in list(islice(self._known, max(0, len(self._known) - _REMEMBERED + 1))):
            del self._known[oldest]
        self._known[digest.digest()] = verified
        return verified.principal

    async def run(self) -> None:
        """Keep the issuers' keys up to date until cancelled."""
        await asyncio.gather(*(issuer.keys.run() for issuer in self._issuers.values()))

    async def _verified(self, token: str, credential: str) -> _Known | None:
        try:
            said = jwt.decode_complete(token, options=_CLAIMED)
            issuer = self._issuer(said["payload"])
            key = await _key(issuer, said["header"]) if issuer else None
            if issuer is None or key is None:
                return None
            version = issuer.keys.version
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                issuer=issuer.name,
                audience=issuer.audience,
                leeway=issuer.leeway,
                options=_VERIFIED,
            )
        except jwt.PyJWTError:
            return None
        if isinstance(claims["exp"], bool) or not isinstance(claims["exp"], int | float):
            return None
        expires = min(claims["exp"], _LATEST)
        principal = issuer.principal(claims, credential, expires)
        if principal.tenant is None or not await self._has_tenant(principal.tenant):
            raise InvalidClaims("There is no such tenant as the token names.", param=issuer.tenant_claim)
        return _Known(principal, expires + issuer.leeway, issuer, version)

    def _issuer(self, claims: dict[str, Any]) -> Issuer | None:
        name = claims.get("iss")
        return self._issuers.get(name) if isinstance(name, str) else None


async def _key(issuer: Issuer, header: dict[str, Any]) -> jwt.PyJWK | None:
    kid, algorithm = header.get("kid"), header.get("alg")
    if not isinstance(algorithm, str) or not isinstance(kid, str | None):
        return None
    return await issuer.keys.find(kid, algorithm)
