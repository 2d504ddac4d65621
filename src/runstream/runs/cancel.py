"""Stop a run, wherever it is."""

from redis.asyncio import Redis

from runstream.counters.book import Book
from runstream.crash_points import Point, reached
from runstream.domain.audit import Action, Actor
from runstream.domain.errors import NotFound
from runstream.domain.principal import Owner
from runstream.domain.run import Run, Status
from runstream.queue.control import announce_cancel
from runstream.runs.finish import end_unwritten
from runstream.runs.watch import Watch
from runstream.storage.runs import RunStore
from runstream.stream.log import TokenLog

_PATIENCE = 1.0
"""Seconds to wait for a worker to stop before the run is answered as it stands."""


class Cancel:
    def __init__(self, *, store: RunStore, token_log: TokenLog, book: Book, redis: Redis, watch: Watch) -> None:
        self._store = store
        self._log = token_log
        self._book = book
        self._redis = redis
        self._watch = watch

    async def __call__(self, owner: Owner, run_id: str, *, by: Actor | None = None) -> Run:
        """End a queued run, or have a running one stopped; answers the run, ended if that took no longer than a second.

        Calling it again changes nothing. Against an end that comes at the same time, exactly one of the two wins.
        Whom it is done `by` is in the audit log, if that is said. Raises NotFound, Unavailable.
        """
        run = await stop(self._store, self._log, self._book, self._redis, owner, run_id, by=by)
        return run if run.status.ended else await self._watch.until_ended(owner, run_id, _PATIENCE)


async def stop(
    store: RunStore,
    token_log: TokenLog,
    book: Book,
    redis: Redis,
    owner: Owner,
    run_id: str,
    *,
    by: Actor | None = None,
) -> Run:
    """End a queued run, or tell its worker to stop a running one; answers the run as it then is.

    Raises NotFound, Unavailable.
    """
    while True:
        run = await store.outline(owner, run_id)
        if run is None:
            raise NotFound("There is no such run.")
        if run.status.ended:
            return run
        entry = by and by.entry(Action.RUN_CANCELLED, tenant=run.tenant, target=run_id, user=run.user, was=run.status)
        if run.status is Status.QUEUED:
            await end_unwritten(store, token_log, book, run, status=Status.CANCELLED, reason="cancelled", entry=entry)
        elif worker := await store.request_cancel(run.tenant, run_id, entry=entry):
            reached(Point.CANCEL_MARKED)
            await announce_cancel(redis, worker, run_id)
            return run
