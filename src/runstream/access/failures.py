"""Who fails too often to say who it is gets its answers late."""

import asyncio
import ipaddress
import time
from collections.abc import Callable

import structlog

from runstream.domain.errors import TooManyRequests

_WINDOW = 60.0
_PAUSE = 1.0
"""Seconds that an answer is held back."""
_ADDRESSES = 10_000
_HELD_BACK = 1_000
"""Answers that a process holds back at once: further ones say so, and are not held."""

log = structlog.get_logger(__name__)


class Failures:
    """Counts those of each client address, in this process alone: Redis is not asked for it.

    A network of IPv6 that one customer is given, /64, counts as one address.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic, pause: float = _PAUSE) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._pause = pause
        self._counted: dict[str, tuple[float, int]] = {}
        self._held_back = 0

    async def note(self, address: str) -> None:
        """Count one, and wait where there were more than may be. Raises TooManyRequests where too many wait."""
        network = _network(address)
        count = self._count(network)
        if count <= self._per_minute:
            return
        if count == self._per_minute + 1:
            log.warning("authentications_slowed", address=network)
        if self._held_back >= _HELD_BACK:
            raise TooManyRequests("Too many keys from your address were not valid.", retry_after=_WINDOW)
        self._held_back += 1
        try:
            await asyncio.sleep(self._pause)
        finally:
            self._held_back -= 1

    def _count(self, network: str) -> int:
        """How many there were since the minute began that counts for the network."""
        now = self._clock()
        began, count = self._counted.pop(network, (now, 0))
        if now - began >= _WINDOW:
            began, count = now, 0
        if len(self._counted) >= _ADDRESSES:
            del self._counted[next(iter(self._counted))]  # of which nothing was heard for the longest time
        self._counted[network] = began, count + 1
        return count + 1


def _network(address: str) -> str:
    try:
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    except ValueError:
        return address
