"""Erase users: in batches, by whichever worker comes to it, until nothing is left."""

import time

import structlog

from runstream.counters.away import Away
from runstream.counters.book import Book
from runstream.runs.delete import Deleting
from runstream.storage.deletions import DeletionStore
from runstream.storage.erasures import Erasure, ErasureStore

_BATCH = 100
"""Runs that are deleted with one statement, and erasures that are looked at at once."""
_BATCHES = 20
"""At a time: whoever else is to be erased does not wait for all of a user's runs."""
_KEPT = 24 * 3600.0
"""Seconds for which it is known that a run was deleted: longer than any call that it began can go on."""
_FORGET_INTERVAL = 600.0

log = structlog.get_logger(__name__)


class Erase:
    """A chore: what was asked to be deleted and is not yet, single runs and all of a user's."""

    def __init__(self, *, erasures: ErasureStore, deletions: DeletionStore, deleting: Deleting, book: Book) -> None:
        self._erasures = erasures
        self._deletions = deletions
        self._deleting = deleting
        self._book = book
        self._beyond = ""
        """The run that the last look came to, where it did not come to the end."""
        self._beyond_erasure = ""
        self._next_forgetting = 0.0

    async def __call__(self) -> None:
        """Do some of it. Raises Unavailable."""
        erasures = await self._erasures.open(beyond=self._beyond_erasure, limit=_BATCH)
        self._beyond_erasure = erasures[-1].id if len(erasures) == _BATCH else ""
        for erasure in erasures:
            await self._ask_for_runs(erasure)
        for _ in range(_BATCHES):
            if not await self._delete():
                break
        for erasure in erasures:
            if not await self._erasures.left(erasure):
                await self._close(erasure)
        if time.monotonic() >= self._next_forgetting:
            self._next_forgetting = time.monotonic() + _FORGET_INTERVAL
            await self._deletions.forget(_KEPT)

    async def _ask_for_runs(self, erasure: Erasure) -> None:
        found, more = 0, True
        for _ in range(_BATCHES):
            if not more:
                break
            came = await self._deletions.ask_all(
                erasure.tenant, erasure.user or "", before=erasure.asked_at, limit=_BATCH
            )
            found, more = found + came, came == _BATCH
        if found:
            await self._erasures.count(erasure, found)

    async def _delete(self) -> bool:
        """Whether there may be more to do at once."""
        asked = await self._deletions.open(beyond=self._beyond, limit=_BATCH)
        self._beyond = asked[-1].run_id if len(asked) == _BATCH else ""
        if not asked:
            return False
        gone = await self._deleting.finish(asked)
        stopped = [one for one in asked if one.run_id not in gone and await self._deleting.stop(one)]
        if stopped:
            await self._deleting.finish(stopped)
        return bool(self._beyond)

    async def _close(self, erasure: Erasure) -> None:
        await self._erasures.pseudonymise(erasure)
        try:
            await self._book.forget_user(erasure.tenant, erasure.user or "")
        except Away as error:
            log.warning("erasure_waits_for_redis", erasure=erasure.id, error=str(error))
            return
        await self._erasures.done(erasure)
        log.info("user_erased", erasure=erasure.id, tenant=erasure.tenant)
