"""Try a run again that did not complete: the row first, the job second."""

from collections.abc import Callable
from typing import Final

import structlog
from redis.exceptions import RedisError

from runstream.crash_points import Point, reached
from runstream.domain.audit import Action, Actor, Entry
from runstream.domain.errors import Conflict, NotFound, QueueFull, TooManyQueued
from runstream.domain.limits import Party
from runstream.domain.principal import Owner
from runstream.domain.retention import Content
from runstream.domain.run import Run, Status
from runstream.domain.terms import Terms
from runstream.gateway.admission import Admission, Wanted
from runstream.metrics import NOT_ENQUEUED, TRIED_AGAIN
from runstream.queue.enqueue import JobQueue
from runstream.runs.backlog import Backlog
from runstream.storage.runs import RunStore

_RETRYABLE: Final = frozenset({Status.FAILED, Status.CANCELLED})
_REASON = "retry"

log = structlog.get_logger(__name__)


class Retry:
    def __init__(
        self, *, store: RunStore, terms: Callable[[], Terms], jobs: JobQueue, backlog: Backlog, admission: Admission
    ) -> None:
        self._store = store
        self._terms = terms
        self._jobs = jobs
        self._backlog = backlog
        self._admission = admission

    async def __call__(self, owner: Owner, run_id: str, *, by: Actor | None = None) -> Run:
        """Queue a failed or cancelled run for another attempt, and answer it. It is limited as a new one is.

        Of several calls at the same time exactly one does so. Whom it is done `by` is in the audit log, if that is
        said. Raises NotFound, Conflict, TenantSuspended, NotAllowed, LimitReached, TooManyQueued, Unavailable.
        """
        while True:
            run = await self._store.get(owner, run_id)
            if run is None:
                raise NotFound("There is no such run.")
            if why := refusal(run):
                raise Conflict(why)
            self._terms().admit(Party(run.tenant, run.user, run.feature), run.prompt_version, run.model)
            if queued := await self._try_again(run, by and _entry(by, run)):
                reached(Point.AGAIN_COMMITTED)
                TRIED_AGAIN.inc()
                log.info("run_tried_again", run_id=run.id, was=run.status, attempt=run.attempt)
                await self._enqueue(queued)
                return queued

    async def _try_again(self, run: Run, entry: Entry | None) -> Run | None:
        """None where it has changed meanwhile, or what was reserved for it is not good any more."""
        party = Party(run.tenant, run.user, run.feature)
        hold = await self._admission.reserve(
            Wanted(run.id, party, run.model, run.input or {}, run.attempt, run.complexity)
        )
        try:
            async with self._admission.unreserved(hold, run.tenant), self._backlog.room(run.tenant):
                queued = await self._store.retry(
                    run.tenant, run.id, was=run.status, attempt=run.attempt, reason=_REASON, hold=hold, entry=entry
                )
        except (TooManyQueued, QueueFull):
            await self._admission.stale(hold)  # not released: it may be another call's as well
            raise
        if queued is None:
            await self._admission.stale(hold)
        return queued

    async def _enqueue(self, run: Run) -> None:
        try:
            await self._jobs.enqueue(run.id, run.attempt, run.queue, tenant=run.tenant, priority=run.priority)
        except (RedisError, OSError, TimeoutError) as error:  # the sweep does it
            NOT_ENQUEUED.inc()
            log.warning("job_not_enqueued", run_id=run.id, error=type(error).__name__)


def refusal(run: Run) -> str | None:
    """Why it cannot be tried again; None where it can."""
    if run.status not in _RETRYABLE:
        return f"The run is {run.status}: only a failed or cancelled one can be tried again."
    if Content.INPUT in run.removed:
        return "What the run asks is not kept any more: make a new one."
    return None


async def try_again(store: RunStore, run: Run, *, by: Actor) -> Run | None:
    """Queue a run that is known to have ended like this, whatever its limits say; None where it has not any more.

    Its job is still to be enqueued; the sweep does what is left undone.
    """
    return await store.retry_unasked(
        run.tenant, run.id, was=run.status, attempt=run.attempt, reason=_REASON, entry=_entry(by, run)
    )


def _entry(by: Actor, run: Run) -> Entry:
    return by.entry(Action.RUN_RETRIED, tenant=run.tenant, target=run.id, user=run.user, was=run.status)
