"""Who asks."""

from runstream.access.check import KeyCheck
from runstream.access.failures import Failures
from runstream.domain.errors import Unauthenticated
from runstream.domain.principal import Principal


class Authenticate:
    def __init__(self, keys: KeyCheck, failures: Failures) -> None:
        self._keys = keys
        self._failures = failures

    async def __call__(self, credential: str, address: str) -> Principal:
        """`address` is the client's. Raises Unauthenticated, TooManyRequests, Unavailable."""
        principal = await self._keys.principal(credential)
        if principal is None:
            await self._failures.note(address)
            raise Unauthenticated
        return principal
