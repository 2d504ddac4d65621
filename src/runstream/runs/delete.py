"""Delete runs: stopped first where they have not ended, then taken out of Postgres, then out of Redis.

Nothing brings a deleted run back. Its row is what every writer has to change, and its log is left at an attempt that
nobody writes: who says more of it is fenced, though it was put off for as long as its worker holds its lease.
"""

from collections.abc import Sequence

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from runstream.answers.board import in_use
from runstream.counters.book import Book
from runstream.crash_points import Point, reached
from runstream.domain import events
from runstream.domain.errors import NotFound
from runstream.domain.principal import Owner
from runstream.domain.transcript import Transcript
from runstream.runs.cancel import stop
from runstream.runs.sharing.call import call_name
from runstream.runs.watch import Watch
from runstream.storage.deletions import Deletion, DeletionStore
from runstream.storage.runs import RunStore
from runstream.stream.log import Append, TokenLog

_REASON = "deleted"
_PATIENCE = 1.0
"""Seconds to wait for a worker to stop before it is said that the run is still to go."""

log = structlog.get_logger(__name__)


class Deleting:
    """Whoever asked has written it down: each step can be done again, by whoever finds it undone."""

    def __init__(
        self, *, deletions: DeletionStore, runs: RunStore, token_log: TokenLog, book: Book, redis: Redis
    ) -> None:
        self._deletions = deletions
        self._runs = runs
        self._log = token_log
        self._book = book
        self._redis = redis

    async def stop(self, one: Deletion) -> bool:
        """End the run, or have its worker do so; whether it has ended. Raises Unavailable."""
        owner = Owner(one.tenant, None)
        try:
            run = await stop(self._runs, self._log, self._book, self._redis, owner, one.run_id)
        except NotFound:
            return True
        return run.status.ended

    async def finish(self, asked: Sequence[Deletion]) -> set[str]:
        """Delete those that have ended; answers which are gone. Raises Unavailable.

        Where Redis does not answer, it keeps what it has until the next who finishes them.
        """
        there = [one for one in asked if one.attempt is None]
        gone = [one for one in asked if one.attempt is not None]
        if there:
            gone += await self._deletions.delete(there)
        if gone:
            reached(Point.DELETE_COMMITTED)
            try:
                if cleared := await self._clear([one for one in gone if not one.cleared]):
                    await self._deletions.cleared(cleared)
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("deleted_runs_not_cleared", runs=len(gone), error=type(error).__name__)
        return {one.run_id for one in gone}

    async def _clear(self, gone: Sequence[Deletion]) -> list[Deletion]:
        """Take them out of Redis; those of which there is nothing left.

        A call that others share goes on for them, and what it says is theirs: its log is taken away when it is over.
        """
        if not gone:
            return []
        ends = [_end(one.run_id, (one.attempt or 0) + 1) for one in gone]
        calls = {call_name(one.run_id, n + 1): one.run_id for one in gone for n in range(one.attempt or 0)}
        logged = [call for call, there in zip(calls, await self._log.held([*calls]), strict=True) if there]
        used = [call for call, used in zip(logged, await in_use(self._redis, logged), strict=True) if used]
        await self._log.append([*ends, *(_end(call, 2) for call in logged if call not in used)])
        going_on = {calls[call] for call in used}
        return [one for one in gone if one.run_id not in going_on]


class Delete:
    def __init__(self, deletions: DeletionStore, deleting: Deleting, watch: Watch) -> None:
        self._deletions = deletions
        self._deleting = deleting
        self._watch = watch

    async def __call__(self, owner: Owner, run_id: str) -> bool:
        """Delete the run, stopped first where it has not ended; False where its worker is still about to stop.

        Once asked it is done, whatever dies. Calling it again changes nothing. Raises NotFound, Unavailable.
        """
        asked = await self._deletions.ask(owner, run_id)
        if asked is None:
            raise NotFound("There is no such run.")
        reached(Point.DELETE_ASKED)
        if asked.attempt is None and not await self._deleting.stop(asked):
            try:
                await self._watch.until_ended(owner, run_id, _PATIENCE)
            except NotFound:
                return True
        if run_id in await self._deleting.finish([asked]):
            return True
        left = await self._deletions.ask(owner, run_id)  # another may have been at it
        return left is None or left.attempt is not None


def _end(run_id: str, attempt: int) -> Append:
    """What readers are told who have not been told of the end: to forget all, and that nothing comes."""
    transcript = Transcript(attempt)
    transcript.append(events.RESTARTED, {"attempt": attempt, "reason": _REASON})
    transcript.append(events.CANCELLED, {"partial": False})
    return Append(run_id, attempt, 0, transcript.since(0))
