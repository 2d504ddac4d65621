"""What an issuer's tokens are verified with: keys that it publishes, or a secret that it shares."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, Protocol

import httpx
import jwt
import orjson
import structlog
from jwt.utils import base64url_encode

from runstream.domain.errors import ConfigurationError, ProviderError, Unavailable
from runstream.metrics import KEY_SETS_READ
from runstream.providers.upstream import FAILURES, Upstream, failure_of

PUBLISHED: Final = ("RS256", "PS256", "ES256", "EdDSA")
"""Algorithms of keys that are published. None of them takes a public key for a secret."""

_BY_TYPE: Mapping[tuple[str, str | None], Collection[str]] = {
    ("RSA", None): ("RS256", "PS256"),
    ("EC", "P-256"): ("ES256",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
_PUBLIC = ("kty", "crv", "n", "e", "x", "y")
"""Members of a key that a signature is verified with; what else is published with it plays no part."""
_SHORTEST_RSA = 2048
"""Bits: https://www.rfc-editor.org/rfc/rfc7518#section-3.3"""
_MOST_KEYS = 100

_MAX_AGE = 600.0
"""Seconds after which the keys are read anew, so that a withdrawn one is forgotten."""
_COOLDOWN = 30.0
"""Seconds for which a token with a key that is not known has them not read again: anybody can make such tokens."""
_RETRY = 5.0
"""The same, where they could not be read."""
_DEADLINE = 5.0
_LARGEST = 256 * 1024
_HEADERS = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
_OK = 200

log = structlog.get_logger(__name__)


class KeySource(Protocol):
    version: int
    """Another once a key was withdrawn: what was verified before is to be verified again."""

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of this name for this algorithm and no other. Raises Unavailable where no key is known yet."""
        ...

    async def run(self) -> None:
        """Keep the keys up to date until cancelled."""
        ...


class SharedSecret:
    """Has no name: whatever a token says of it, it is this one, and for HS256 alone."""

    version = 0

    def __init__(self, secret: str) -> None:
        """Raises ConfigurationError."""
        self._key = jwt.PyJWK({"kty": "oct", "k": base64url_encode(secret.encode()).decode()}, "HS256")
        try:
            jwt.encode({}, self._key)
        except jwt.InvalidKeyError:
            raise ConfigurationError("The secret is a key of another kind: give its 'jwks_url' instead.") from None

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        return self._key if algorithm == self._key.algorithm_name else None

    async def run(self) -> None: ...


class _Key(NamedTuple):
    public: Mapping[str, Any]
    verifies: jwt.PyJWK


class PublishedKeys:
    """Reads them at first, every ten minutes, and where a token names a key that is not known: once in 30 s at most.

    Whoever's key is known waits for nothing; and what is known stays until it is known that it was withdrawn.
    """

    version = 0

    def __init__(
        self, url: str, algorithms: Collection[str] = PUBLISHED, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = httpx.URL(url)
        self._algorithms = algorithms
        self._upstream = Upstream(self._url)
        self._clock = clock
        self._keys: dict[tuple[str | None, str], _Key] = {}
        self._reading: asyncio.Task[None] | None = None
        self._rests_until = 0.0
        self._failing = False

    @property
    def algorithms(self) -> list[str]:
        """That of each key that is known."""
        return [algorithm for _, algorithm in self._keys]

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Without a name, it is the only key there is for that."""
        key = self._known(kid, algorithm)
        if key is None and algorithm in self._algorithms and (self._reading or self._clock() >= self._rests_until):
            await self._read_together()
            key = self._known(kid, algorithm)
        if key is None and not self._keys:
            raise Unavailable("The keys that tokens are verified with cannot be read now.", retry_after=_RETRY)
        return key

    async def run(self) -> None:
        try:
            while True:
                await self._read_together()
                await asyncio.sleep(_RETRY if self._failing else _MAX_AGE)
        finally:
            await self.aclose()

    async def read(self) -> None:
        """Raises ProviderError where they cannot be read, or none of them can be used."""
        try:
            async with asyncio.timeout(_DEADLINE):
                keys = dict(_usable(await self._document(), self._algorithms))
        except TimeoutError:
            raise ProviderError(f"It took longer than {_DEADLINE:g} s.") from None
        if not keys:
            raise ProviderError(f"It has no key for {', '.join(self._algorithms)}.")
        if any(name not in keys or keys[name].public != key.public for name, key in self._keys.items()):
            self.version += 1
        self._keys = keys

    async def aclose(self) -> None:
        if self._reading:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        await self._upstream.aclose()

    def _known(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        if kid is None:
            fitting = [key.verifies for (_, each), key in self._keys.items() if each == algorithm]
            return fitting[0] if len(fitting) == 1 else None
        key = self._keys.get((kid, algorithm))
        return key and key.verifies

    async def _read_together(self) -> None:
        """Whoever goes away leaves it to the others."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_once())
        await asyncio.shield(self._reading)

    async def _read_once(self) -> None:
        try:
            await self.read()
        except ProviderError as error:
            KEY_SETS_READ.labels("failed").inc()
            log.warning("key_set_not_read", host=self._url.host, error=error.message, known=len(self._keys))
            self._failing = True
        else:
            KEY_SETS_READ.labels("read").inc()
            self._failing = False
        finally:
            self._rests_until = self._clock() + (_RETRY if self._failing else _COOLDOWN)
            self._reading = None

    async def _document(self) -> bytes:
        response = await self._upstream.send("GET", self._url, _HEADERS, None, _DEADLINE)
        try:
            if response.status_code != _OK:
                raise ProviderError(f"It answered with status {response.status_code}.")
            body = bytearray()
            async for part in response.aiter_raw():
                body += part
                if len(body) > _LARGEST:
                    raise ProviderError(f"Its answer is larger than {_LARGEST} bytes.")
        except FAILURES as error:
            raise failure_of(error) from error
        finally:
            await response.aclose()
        return bytes(body)


def _usable(document: bytes, algorithms: Collection[str]) -> Iterator[tuple[tuple[str | None, str], _Key]]:
    """Of keys that have the same name, the first. Raises ProviderError where it is no set of keys."""
    try:
        listed = orjson.loads(document)["keys"]
        keys: Iterable[Any] = listed[:_MOST_KEYS] if isinstance(listed, list) else _no_set()
    except (ValueError, KeyError, TypeError):
        _no_set()
    seen = set()
    for jwk in keys:
        if isinstance(jwk, dict) and _for_signatures(jwk):
            for algorithm in _algorithms(jwk):
                name = jwk.get("kid"), algorithm
                key = _key(jwk, algorithm)
                if algorithm in algorithms and name not in seen and key is not None:
                    seen.add(name)
                    yield name, key


def _no_set() -> Any:
    raise ProviderError("Its answer is no JSON Web Key Set.")


def _for_signatures(jwk: Mapping[str, Any]) -> bool:
    operations = jwk.get("key_ops", ["verify"])
    named = isinstance(jwk.get("kid"), str | None)
    return named and jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def _algorithms(jwk: Mapping[str, Any]) -> list[str]:
    """Those that its type allows; of these, the one that it is for, where it says so."""
    try:
        allowed = _BY_TYPE.get((jwk.get("kty"), jwk.get("crv")), ())  # type: ignore[arg-type]
    except TypeError:
        return []
    return [each for each in allowed if jwk.get("alg", each) == each]


def _key(jwk: Mapping[str, Any], algorithm: str) -> _Key | None:
    public = {name: jwk[name] for name in _PUBLIC if name in jwk}
    try:
        key = jwt.PyJWK(public, algorithm)
    except jwt.PyJWTError:
        return None
    if public["kty"] == "RSA" and key.key.key_size < _SHORTEST_RSA:
        return None
    return _Key(public, key)
