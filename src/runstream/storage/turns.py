"""One sum at a time of each tenant: it may take seconds, and runs need the connections as well."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from runstream.storage.database import answering

_TURN = 10.0
"""Seconds that a sum waits for the tenant's others."""


class Turns:
    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """Raises Unavailable where the turn does not come."""
        turn = self._turns.setdefault(tenant, asyncio.Lock())
        with answering():
            async with asyncio.timeout(_TURN):
                await turn.acquire()
        try:
            yield
        finally:
            turn.release()
