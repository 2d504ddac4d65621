"""The sweep: what a crash left behind is found in Postgres and mended."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

import structlog
from redis.exceptions import RedisError

from runstream.counters.away import Away
from runstream.counters.book import Book
from runstream.crash_points import Point, reached
from runstream.domain.errors import ContentUnreadable, Unavailable, whereabouts
from runstream.domain.principal import Owner
from runstream.domain.run import UNKNOWN, KeptAnswer, Outcome, Status
from runstream.metrics import LAPSED, STRANDED, SWEEPS_FOUND
from runstream.queue.enqueue import JobQueue
from runstream.runs.finish import CallUnseen, count, end_unwritten, owing, unseen
from runstream.runs.reconcile import Reconcile
from runstream.storage.leases import LeaseStore
from runstream.storage.left_behind import Lapsed, LeftBehind, Queued
from runstream.storage.runs import RunStore
from runstream.stream.log import TokenLog

_LIMIT = 100
"""Runs of each kind that one sweep takes on, and tenants that it looks at; the next one follows soon."""
_OVERDUE = 5.0
"""Seconds after which a queued run's job is looked for again."""
_REASON = "worker_lost"
_FORGET = 3600.0
"""Seconds that the row of a dead worker is kept."""

log = structlog.get_logger(__name__)


class Sweep:
    """Runs in every worker. Each change is guarded, so sweeps side by side do nothing twice."""

    def __init__(
        self,
        *,
        store: RunStore,
        left: LeftBehind,
        leases: LeaseStore,
        jobs: JobQueue,
        token_log: TokenLog,
        book: Book,
        reconcile: Reconcile,
        queue: str,
        interval: float,
        steady: Callable[[], bool],
        call_unseen: CallUnseen,
        stop_answer: Callable[[KeptAnswer], Coroutine[Any, Any, None]] | None = None,
        also: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        """`queue` is the one whose jobs are restored from lost workers.

        `steady` says whether a lapsed lease is to be taken for a lost worker's now, and `call_unseen` what the ledger
        keeps of a call whose worker was lost. `stop_answer` has a provider stop an answer that nobody will read. What
        is `also` to be done comes last.
        """
        self._store = store
        self._left = left
        self._leases = leases
        self._jobs = jobs
        self._log = token_log
        self._book = book
        self._reconcile = reconcile
        self._queue = queue
        self._interval = interval
        self._steady = steady
        self._call_unseen = call_unseen
        self._stop_answer = stop_answer
        self._also = also
        self._beyond = ""
        """The tenant that the last sweep came to, where it did not come to the end."""
        self._stopping: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Sweep every `interval` seconds until cancelled."""
        while True:
            await asyncio.sleep(self._interval * random.uniform(0.8, 1.2))  # noqa: S311
            try:
                await self.once()
            except Unavailable as error:
                log.warning("sweep_failed", error=error.message)
            except (RedisError, OSError, TimeoutError, Away) as error:
                log.warning("sweep_failed", error=type(error).__name__)
            except Exception as error:
                log.error("sweep_broke", **whereabouts(error))  # noqa: TRY400 - without what it says

    async def once(self) -> None:
        await self._take_up_lapsed()
        await self._stop_unread()
        await self._restore_jobs()
        await self._enqueue_stranded()
        await self._leases.forget_dead(_FORGET)
        await self._reconcile()
        for step in self._also:
            await step()

    async def _take_up_lapsed(self) -> None:
        lapsed = await self._left.lapsed(_LIMIT)
        if not lapsed or not self._steady():
            return
        characters = await self._said(lapsed)
        requeued: list[Lapsed] = []
        found = False
        for run in lapsed:
            if await self._takes_up(run, characters.get(run.run_id, 0), requeued):
                LAPSED.inc()
                found = True
                log.warning("lease_lapsed", run_id=run.run_id, tenant=run.tenant, attempt=run.attempt)
        SWEEPS_FOUND.labels("lapsed").inc(found)
        for run in requeued:
            reached(Point.SWEEP_REQUEUED)
            await self._enqueue(run)

    async def _stop_unread(self) -> None:
        """A run that ended while its answer waited to be read on left its provider at work. The sweep does not wait."""
        if self._stop_answer is None:
            return
        for answer in await self._left.unread(_LIMIT):
            log.info("answer_unread", provider=answer.provider, model=answer.model)
            stopping = asyncio.create_task(self._stop_answer(answer))
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)

    async def _restore_jobs(self) -> None:
        """A lost worker's jobs would otherwise stay until they count as lost, and so would runs that it never began."""
        dead = await self._leases.dead()
        if dead and self._steady() and await self._jobs.restore(dead, self._queue):
            SWEEPS_FOUND.labels("jobs").inc()

    async def _enqueue_stranded(self) -> None:
        tenants = await self._left.tenants_waiting(beyond=self._beyond, limit=_LIMIT)
        self._beyond = tenants[-1] if len(tenants) == _LIMIT else ""
        if not tenants:
            return
        stranded = await self._left.stranded(tenants, overdue=_OVERDUE, limit=_LIMIT)
        found = False
        for run in stranded:
            reached(Point.SWEEP_MARKED)
            if await self._enqueue(run):
                STRANDED.inc()
                SWEEPS_FOUND.labels("stranded").inc(not found)
                found = True

    async def _enqueue(self, run: Lapsed | Queued) -> bool:
        return await self._jobs.enqueue(run.run_id, run.attempt, run.queue, tenant=run.tenant, priority=run.priority)

    async def _said(self, lapsed: Sequence[Lapsed]) -> Mapping[str, int]:
        """How many characters of each one's attempt the log holds; of none where Redis does not answer."""
        try:
            cursors = await self._log.reached([run.run_id for run in lapsed])
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("attempts_not_metered", runs=len(lapsed), error=type(error).__name__)
            return {}
        return {
            run.run_id: cursor.position - 1  # one event came before the text
            for run, cursor in zip(lapsed, cursors, strict=True)
            if cursor is not None and cursor.attempt == run.attempt
        }

    async def _takes_up(self, lapsed: Lapsed, characters: int, requeued: list[Lapsed]) -> bool:
        """As `_take_up`; a run that cannot be taken up keeps no other one from it."""
        try:
            return await self._take_up(lapsed, characters, requeued)
        except ContentUnreadable as error:
            log.error("run_not_taken_up", run_id=lapsed.run_id, error=error.message)  # noqa: TRY400 - it says all
            return False
        except (Unavailable, RedisError, OSError, TimeoutError, Away):
            raise
        except Exception as error:
            log.error("run_not_taken_up", run_id=lapsed.run_id, **whereabouts(error))  # noqa: TRY400 - without what it says
            return False

    async def _take_up(self, lapsed: Lapsed, characters: int, requeued: list[Lapsed]) -> bool:
        if lapsed.cancel_requested:
            return await self._end(lapsed, Status.CANCELLED)
        if lapsed.attempt >= lapsed.max_attempts:
            error = {"code": _REASON, "message": "Each attempt's worker was lost before it was done."}
            return await self._end(lapsed, Status.FAILED, error)
        generation = UNKNOWN
        if not lapsed.shared and (run := await self._store.outline(Owner(lapsed.tenant, None), lapsed.run_id)):
            generation = owing(unseen(run, characters, self._call_unseen, lapsed.kept))
        taken = await self._store.requeue(
            lapsed.tenant,
            lapsed.run_id,
            lapsed.attempt,
            reason=_REASON,
            delay=0,
            outcome=Outcome.LAPSED,
            generation=generation,
        )
        if taken is None:
            return False
        await count(self._book, taken)
        requeued.append(lapsed)
        return True

    async def _end(self, lapsed: Lapsed, status: Status, error: Mapping[str, str] | None = None) -> bool:
        run = await self._store.outline(Owner(lapsed.tenant, None), lapsed.run_id)
        if run is None or (run.status, run.attempt) != (Status.RUNNING, lapsed.attempt):
            return False
        return await end_unwritten(
            self._store,
            self._log,
            self._book,
            run,
            status=status,
            reason=_REASON,
            error=error,
            call_unseen=None if lapsed.shared else self._call_unseen,
            kept=lapsed.kept,
        )
