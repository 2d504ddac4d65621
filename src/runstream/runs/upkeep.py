"""What workers do for the data that is kept, apart from their runs: nobody waits for it, and it may take its time."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import structlog
from redis.exceptions import RedisError

from runstream.counters.away import Away
from runstream.domain.errors import Unavailable, whereabouts

Chore = Callable[[], Awaitable[None]]
"""Does some of what there is to do. What it leaves undone is there at the next turn."""

log = structlog.get_logger(__name__)


class Upkeep:
    """Runs in every worker: each chore can be done by several at once."""

    def __init__(self, chores: Sequence[Chore], *, interval: float) -> None:
        self._chores = chores
        self._interval = interval

    async def run(self) -> None:
        """Take turns every `interval` seconds until cancelled."""
        while True:
            await asyncio.sleep(self._interval * random.uniform(0.8, 1.2))  # noqa: S311
            for chore in self._chores:
                await self._do(chore)

    async def _do(self, chore: Chore) -> None:
        """What fails keeps no other one from being done."""
        name = type(chore).__name__
        try:
            await chore()
        except Unavailable as error:
            log.warning("upkeep_failed", chore=name, error=error.message)
        except (RedisError, OSError, TimeoutError, Away) as error:
            log.warning("upkeep_failed", chore=name, error=type(error).__name__)
        except Exception as error:
            log.error("upkeep_broke", chore=name, **whereabouts(error))  # noqa: TRY400 - without what it says
