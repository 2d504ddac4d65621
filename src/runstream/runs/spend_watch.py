"""Warn of tenants whose spend runs ahead of its usual."""

import asyncio
import random
from decimal import Decimal

import structlog

from runstream.counters.away import Away
from runstream.counters.book import Book
from runstream.domain.errors import Unavailable, whereabouts
from runstream.domain.usage import dollars
from runstream.metrics import SPEND_AHEAD
from runstream.storage.pace import PaceStore

_INTERVAL = 60.0
"""Seconds from one look to the next, of all processes together."""

log = structlog.get_logger(__name__)


class SpendWatch:
    """Runs in every worker, apart from the sweep, which a sum must not hold up. Postgres decides who warns of whom."""

    def __init__(self, pace: PaceStore, book: Book, *, times: Decimal, floor: Decimal) -> None:
        """`floor` is in US dollars: see `PaceStore.ahead`."""
        self._pace = pace
        self._book = book
        self._times = times
        self._floor = floor

    async def run(self) -> None:
        """Look now and then until cancelled."""
        while True:
            try:
                await self.once()
            except Unavailable as error:
                log.warning("spend_not_watched", error=error.message)
            except Exception as error:
                log.error("spend_watch_broke", **whereabouts(error))  # noqa: TRY400 - without what it says
            await asyncio.sleep(_INTERVAL * random.uniform(0.8, 1.2))  # noqa: S311

    async def once(self) -> None:
        """Raises Unavailable."""
        if not await self._is_first():
            return
        for tenant, today, usual in await self._pace.ahead(times=self._times, floor=self._floor):
            SPEND_AHEAD.inc()
            log.warning("spend_ahead", tenant=tenant, today=dollars(today), usual=dollars(usual))

    async def _is_first(self) -> bool:
        """Where Redis does not answer, each looks: that costs more, and warns of nobody twice."""
        try:
            return await self._book.first("spend", _INTERVAL / 2)
        except Away:
            return True
