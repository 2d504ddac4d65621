"""Run one attempt: claim, stream, settle."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from redis.exceptions import RedisError
from structlog.contextvars import bound_contextvars

from runstream.counters.book import Book
from runstream.crash_points import Point, reached
from runstream.domain.errors import (
    ContentBlocked,
    ProviderError,
    ProviderProtocolError,
    RunstreamError,
    SharedCallLost,
    Unavailable,
    whereabouts,
)
from runstream.domain.run import Claim, Ending, Outcome, Status
from runstream.domain.terms import Terms
from runstream.domain.usage import total
from runstream.features.base import Feature
from runstream.gateway.generate import Gateway
from runstream.gateway.guards.guards import Guards
from runstream.gateway.routes import RouteQuery
from runstream.metrics import FENCED, FIRST_TOKEN, NOT_ENQUEUED, QUEUE_WAIT, RETRIED, RUNNING, TENANT_QUEUE_WAIT
from runstream.queue.enqueue import JobQueue
from runstream.runs.attempt import Attempt, Stop
from runstream.runs.finish import completed, count, owing, settle, terminal_event
from runstream.runs.intake import Intake
from runstream.runs.meter import metered
from runstream.runs.note import Note
from runstream.runs.sharing.answers import Answers
from runstream.runs.unread import give_back
from runstream.storage.leases import Held
from runstream.storage.run_content import Unread
from runstream.storage.runs import RunStore
from runstream.stream.writer import WriteLoop

_ANNOUNCE = 5.0
"""Seconds to wait for the terminal event to be in the log. Readers find the end in Postgres if it is not."""

_LONGEST_ASKED = 300.0
"""Seconds that a provider's Retry-After is heeded for: what it says may be days, or no number of ours."""

log = structlog.get_logger(__name__)


class Execute:
    """Executes runs for one worker process, and is what holds its lease."""

    def __init__(
        self,
        *,
        worker: str,
        store: RunStore,
        book: Book,
        jobs: JobQueue,
        write_loop: WriteLoop,
        gateway: Gateway,
        guards: Guards,
        answers: Answers,
        features: Mapping[str, Feature],
        retry_delays: Sequence[float],
        max_output_chars: int,
        lease_holds: Callable[[], bool] = lambda: True,
        terms: Callable[[], Terms] = Terms,
    ) -> None:
        self._worker = worker
        self._store = store
        self._book = book
        self._jobs = jobs
        self._write_loop = write_loop
        self._gateway = gateway
        self._guards = guards
        self._answers = answers
        self._features = features
        self._retry_delays = retry_delays
        self._max_output_chars = max_output_chars
        self._lease_holds = lease_holds
        self._terms = terms
        self._claiming: list[str] = []
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._leaving = False

    async def __call__(self, tenant: str, run_id: str) -> None:
        """Run the next attempt of a queued run; nothing where somebody else was first or the run has ended."""
        reached(Point.CLAIM_BEGUN)
        self._claiming.append(run_id)
        try:
            claim = await self._store.claim(tenant, run_id, self._worker)
            if isinstance(claim, Unread):
                await give_back(self._store, self._book, claim)
                return
        except Unavailable as error:
            log.warning("run_not_claimed", run_id=run_id, error=error.message)  # the sweep finds it
            return
        finally:
            self._claiming.remove(run_id)
        if claim is None:
            return
        reached(Point.CLAIM_COMMITTED)
        QUEUE_WAIT.observe(claim.waited)
        TENANT_QUEUE_WAIT.observe(claim.tenant, claim.waited)
        attempt = Attempt(
            claim,
            lambda fenced: self._write_loop.open(run_id, claim.attempt, fenced),
            Note(self._store, self._worker, claim),
            self._lease_holds,
        )
        self._attempts[run_id, claim.attempt] = attempt
        RUNNING.inc()
        with bound_contextvars(run_id=run_id, tenant=claim.tenant, attempt=claim.attempt):
            try:
                raised = await self._stream(attempt)
                await attempt.written_down()
                await self._settle(attempt, raised)
            finally:
                RUNNING.dec()
                attempt.settled.set()
                del self._attempts[run_id, claim.attempt]
                self._write_loop.drop(attempt.writer)

    def written(self) -> list[tuple[str, int]]:
        return list(self._attempts)

    def reconcile(self, written: list[tuple[str, int]], held: list[Held]) -> list[Held]:
        still_held = {(run_id, number): cancel for run_id, number, cancel in held}
        for key in written:
            if attempt := self._attempts.get(key):
                if key not in still_held:
                    attempt.lose()
                elif still_held[key]:
                    attempt.stop(Stop.CANCELLED)
        return [run for run in held if (run[0], run[1]) not in self._attempts and run[0] not in self._claiming]

    def cancel(self, run_id: str) -> None:
        for (written, _), attempt in self._attempts.items():
            if written == run_id:
                attempt.stop(Stop.CANCELLED)

    def hand_back(self) -> None:
        """Stop every generation, so that another worker can go on with it at once; those still to begin as well."""
        self._leaving = True
        for attempt in self._attempts.values():
            attempt.stop(Stop.HANDED_BACK)
        self._answers.stop()

    async def _stream(self, attempt: Attempt) -> BaseException | None:
        attempt.open()
        leaving = Stop.HANDED_BACK if self._leaving else None
        return await attempt.run(asyncio.create_task(self._generate(attempt)), stop=leaving)

    async def _generate(self, attempt: Attempt) -> None:
        claim = attempt.claim
        self._terms().begin(claim.feature, claim.prompt_version, claim.model)
        feature = self._features[claim.feature]
        required = feature.moderation_required
        prompt = await self._guards.input(
            feature.prompt(claim.input), moderation_required=required, found=attempt.found
        )
        attempt.screen = self._guards.screen(moderation_required=required, found=attempt.found)
        intake = Intake(attempt, self._max_output_chars)
        if await self._answers.give(attempt, prompt, intake):
            return
        began = time.monotonic()
        async with self._gateway.generate(RouteQuery.of(claim), prompt, attempt, claim.resume) as answer:
            if answer.begun:
                attempt.first_token()
                FIRST_TOKEN.observe(time.monotonic() - began)
            try:
                await intake.take(answer.head, answer.rest)
            except ProviderError as error:  # to be known before the call is left
                attempt.failure = error
                raise
            if attempt.finish_reason is None:
                raise ProviderProtocolError("The provider's answer ended without a finish reason.")

    async def _settle(self, attempt: Attempt, raised: BaseException | None) -> None:
        if attempt.stopped is Stop.FENCED:
            self._fenced()
        elif attempt.stopped is Stop.HANDED_BACK:
            await self._retry(attempt, Outcome.HANDED_BACK, reason="worker_stopped", delay=0)
        elif attempt.stopped is Stop.CANCELLED:
            await self._end(attempt, Status.CANCELLED)
        elif raised is None:
            await self._end(attempt, Status.COMPLETED)
        elif isinstance(raised, SharedCallLost):
            await self._retry(
                attempt, Outcome.RETRIED, reason=raised.code, delay=0, error=_error(raised), given_back=True
            )
        elif self._may_retry(attempt.claim, raised):
            error = _error(raised)
            delay = self._retry_delays[min(attempt.claim.attempt, len(self._retry_delays)) - 1]
            delay = _patience(raised, delay)
            await self._retry(attempt, Outcome.RETRIED, reason=error["code"], delay=delay, error=error)
        else:
            await self._end(attempt, Status.FAILED, _error(raised))

    def _may_retry(self, claim: Claim, raised: BaseException) -> bool:
        return isinstance(raised, RunstreamError) and raised.retryable and claim.attempt < claim.max_attempts

    async def _retry(
        self,
        attempt: Attempt,
        outcome: Outcome,
        *,
        reason: str,
        delay: float,
        error: Mapping[str, Any] | None = None,
        given_back: bool = False,
    ) -> None:
        """`given_back` has it not count among the attempts that the run is given."""
        claim = attempt.claim
        log.info("attempt_given_up", reason=reason, retry_in=delay)
        await attempt.writer.flush(_ANNOUNCE)
        try:
            requeued = await self._store.requeue(
                claim.tenant,
                claim.run_id,
                claim.attempt,
                reason=reason,
                delay=delay,
                outcome=outcome,
                error=error,
                generation=owing(metered(attempt, self._gateway)),
                findings=list(attempt.findings),
                given_back=given_back,
            )
        except Unavailable as gone:
            log.warning("attempt_not_handed_back", error=gone.message)  # the lease lets go of it
            return
        if requeued is None:
            await self._end(attempt, Status.CANCELLED)
            return
        reached(Point.RETRY_REQUEUED)
        await count(self._book, requeued)
        RETRIED.labels(reason).inc()
        try:
            await self._jobs.enqueue(
                claim.run_id, claim.attempt, claim.queue, tenant=claim.tenant, priority=claim.priority, delay=delay
            )
        except (RedisError, OSError, TimeoutError) as lost:
            NOT_ENQUEUED.inc()
            log.warning("job_not_enqueued", error=type(lost).__name__)

    async def _end(self, attempt: Attempt, status: Status, error: Mapping[str, Any] | None = None) -> None:
        transcript = attempt.writer.transcript
        characters = transcript.characters
        event = terminal_event(status)
        generation = metered(attempt, self._gateway)
        data: dict[str, Any] = {"partial": bool(characters)}
        if status is Status.COMPLETED:
            cost = total([attempt.claim.cost, generation.cost])
            data = completed(generation.usage, cost, attempt.finish_reason or "stop", cached=generation.cached)
        elif error is not None:
            data = {"error": error, **data}
        ending = Ending(
            status=status,
            attempt=attempt.claim.attempt,
            transcript=[*transcript.dump(), [event, data]],
            output=transcript.text(),
            reasoning=transcript.reasoning() or None,
            tool_calls=transcript.tool_calls() or None,
            error=error,
            finish_reason=attempt.finish_reason,
            generation=generation,
            findings=list(attempt.findings),
        )
        reached(Point.SETTLE_BEGUN)
        settled = await settle(self._store, attempt.claim.tenant, attempt.claim.run_id, ending)
        if settled is None:
            self._fenced()
            return
        # What Redis is told of it goes out together, and is counted first.
        counting = asyncio.create_task(count(self._book, settled.done)) if settled.done else None
        if status is Status.COMPLETED:
            await self._answers.keep(attempt, generation)
        attempt.settled.set()
        log.info("run_ended", status=status, chars=characters, error=error["code"] if error else None)
        attempt.writer.append(event, data)
        await attempt.writer.flush(_ANNOUNCE)
        if counting:
            await counting
        reached(Point.SETTLE_ANNOUNCED)

    def _fenced(self) -> None:
        FENCED.inc()
        log.warning("attempt_fenced")


def _error(raised: BaseException) -> dict[str, Any]:
    """What the run keeps of a failure. The text of an error that is not ours may hold anything, so it stays out."""
    if isinstance(raised, RunstreamError):
        categories = {"categories": list(raised.categories)} if isinstance(raised, ContentBlocked) else {}
        return {"code": raised.code, "message": raised.message, **categories}
    log.error("generation_broke", **whereabouts(raised))
    return {"code": "internal_error", "message": "The generation failed inside Runstream."}


def _patience(raised: BaseException, delay: float) -> float:
    asked = raised.retry_after if isinstance(raised, ProviderError) else None
    return max(delay, min(asked or 0, _LONGEST_ASKED))
