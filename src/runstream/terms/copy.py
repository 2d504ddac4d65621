"""The terms of all tenants, as this process knows them."""

import asyncio

import structlog

from runstream.domain.errors import Unavailable, whereabouts
from runstream.domain.terms import Terms
from runstream.storage.terms import TermsStore

_LOOK = 1.0
"""Seconds from one look at Postgres to the next, if nobody tells of a change before."""

log = structlog.get_logger(__name__)


class TermsCopy:
    """Read when it is told of a change, and looked after once a second: one row of Postgres, where nothing changed.

    So it costs a run nothing. Where Redis or Postgres is away, what was read last holds.
    """

    def __init__(self, store: TermsStore) -> None:
        self._store = store
        self._terms: Terms | None = None
        self._told = asyncio.Event()
        self._reading = asyncio.Lock()
        """What was read first must not take the place of what was read since."""

    def __call__(self) -> Terms:
        """Raises Unavailable where they have never been read."""
        if self._terms is None:
            raise Unavailable("The database does not answer: try again shortly.", retry_after=1)
        return self._terms

    def tell(self, _message: str = "") -> None:
        """They may be others now."""
        self._told.set()

    async def read(self) -> None:
        """Raises Unavailable."""
        async with self._reading:
            self._told.clear()
            read = await self._store.read(None if self._terms is None else self._terms.version)
            if read is not None:
                self._terms = read

    async def run(self) -> None:
        """Keep it up to date until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_LOOK):
                    await self._told.wait()
            except TimeoutError:
                pass
            try:
                await self.read()
            except Unavailable as error:
                log.warning("terms_not_read", error=error.message)
                await asyncio.sleep(_LOOK / 2)
            except Exception as error:
                log.error("terms_broke", **whereabouts(error))  # noqa: TRY400 - without what it says
                await asyncio.sleep(_LOOK / 2)
