"""Runs in Postgres. Every change of status is one guarded UPDATE that says what it expected to find."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Executable, Row
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.audit import Entry
from runstream.domain.errors import Unavailable
from runstream.domain.findings import Finding
from runstream.domain.ids import new_id
from runstream.domain.limits import Hold, Settlement, in_parts
from runstream.domain.principal import Owner
from runstream.domain.run import (
    UNKNOWN,
    AttemptRecord,
    Caching,
    Claim,
    Ending,
    Generation,
    KeptAnswer,
    Outcome,
    Request,
    Run,
    Status,
)
from runstream.domain.transcript import Transcript
from runstream.storage.audit import ask_noting, noting
from runstream.storage.budgets import held_still
from runstream.storage.content import PLAIN, Content
from runstream.storage.database import ask, connection_lost
from runstream.storage.rows import findings_values, generation_values, made_run, run_of
from runstream.storage.run_content import RunContent, Unread
from runstream.storage.statements import attempting, making, reading
from runstream.storage.together import Together


class Inserted(NamedTuple):
    """`same_body` is None where the run is new."""

    run: Run
    same_body: bool | None


class Ended(NamedTuple):
    """Where a run stands, with its transcript once it has ended, unless that is `removed`. See Run for
    `retried_attempt`."""

    status: Status
    attempt: int
    retried_attempt: int | None
    transcript: Transcript | None
    removed: datetime | None


class RunStore:
    """Raises Unavailable, of it ContentUnreadable where content is encrypted and its key is not there."""

    def __init__(self, engine: AsyncEngine, *, content: Content = PLAIN, warn_call_cost: Decimal | None = None) -> None:
        """Calls that cost more than `warn_call_cost`, in US dollars, are told of when they are entered."""
        self._engine = engine
        self._content = RunContent(content)
        self._warn_call_cost = warn_call_cost
        self._ask = partial(ask, engine)
        self._change = partial(ask_noting, engine)
        self._inserts = Together(self._insert)
        self._held_inserts = Together(self._insert_held)
        self._claims = Together(self._claim)

    async def insert(
        self,
        run_id: str,
        *,
        tenant: str,
        user: str,
        request: Request,
        queue: str,
        max_attempts: int,
        idempotency_key: str | None = None,
        body_hash: bytes | None = None,
        hold: Hold | None = None,
    ) -> Inserted | None:
        """Make the run; or, where its user has used the idempotency key before, find the one made then.

        Where the connection breaks meanwhile it is asked again: if the first try was done, it is found by its id.
        With a `hold` that is not good any more it answers None. Raises what the `check` of a hold raises.
        """
        given = {
            "id": run_id,
            "tenant": tenant,
            "user_id": user,
            "feature": request.feature,
            "prompt_version": request.prompt_version,
            "model": request.model,
            "complexity": request.complexity,
            "input": request.input,
            "policy": {} if request.cache is Caching.OFF else {"cache": request.cache},
            "metadata": request.metadata,
            "subject_type": request.subject_type,
            "subject_id": request.subject_id,
            "queue": queue,
            "priority": request.priority,
            "status": Status.QUEUED,
            "max_attempts": max_attempts,
            "idempotency_key": idempotency_key,
            "idempotency_hash": body_hash,
        }
        row = await self._content.new(given)
        if hold is None:
            created_at = await self._inserts(row)
        else:
            good, created_at = await self._insert_with(hold, row)
            if not good:
                return None
        if created_at:
            return Inserted(made_run(given, created_at), None)
        if idempotency_key is None:
            rows = await self._ask(reading.GET, whose=[tenant], tenant=tenant, user=user, run_id=run_id)
            return Inserted(run_of(await self._content.opened(rows[0])), None)
        found = await self.earlier(tenant, user, idempotency_key, body_hash)
        assert found is not None  # noqa: S101 - what it stands in the way of is there
        return Inserted(found.run, None) if found.run.id == run_id else found

    async def _insert(self, given: Sequence[Mapping[str, Any]]) -> list[datetime | None]:
        rows = await self._ask_though_lost(making.INSERT, whose=_tenants(given), new_runs=given)
        new = {row.id: row.created_at for row in rows}
        return [new.get(run["id"]) for run in given]

    async def _insert_with(self, hold: Hold, given: Mapping[str, Any]) -> tuple[bool, datetime | None]:
        given = {**given, **hold.columns(), "budget_epoch": hold.epoch}
        if hold.check is None:
            return await self._held_inserts(given)
        async with held_still(self._engine, given["tenant"], bounded=hold.take.tokens is not None) as still:
            connection, epoch, account = still
            hold.check(account)
            new = {"whose": [given["tenant"]], "new_runs": [{**given, "budget_epoch": epoch}]}
            row = (await connection.execute(making.INSERT_HELD, new)).one()
        return row.held, row.created_at

    async def _insert_held(self, given: Sequence[Mapping[str, Any]]) -> list[tuple[bool, datetime | None]]:
        rows = await self._ask_though_lost(making.INSERT_HELD, whose=_tenants(given), new_runs=given)
        answers = {row.id: (row.held, row.created_at) for row in rows}
        return [answers[run["id"]] for run in given]

    async def earlier(self, tenant: str, user: str, idempotency_key: str, body_hash: bytes | None) -> Inserted | None:
        """The run that the user made with this idempotency key."""
        rows = await self._ask(reading.EARLIER, whose=[tenant], tenant=tenant, user=user, key=idempotency_key)
        if not rows:
            return None
        opened = await self._content.opened(rows[0])
        return Inserted(run_of(opened), opened["idempotency_hash"] == body_hash)

    async def get(self, owner: Owner, run_id: str) -> Run | None:
        return await self._content.run(
            await self._ask(reading.GET, whose=[owner.tenant], **owner._asdict(), run_id=run_id)
        )

    async def outline(self, owner: Owner, run_id: str) -> Run | None:
        """The same, without what of its content cannot be opened: for who ends it, or has another worker run it."""
        rows = await self._ask(reading.GET, whose=[owner.tenant], **owner._asdict(), run_id=run_id)
        return await self._content.run(rows, strict=False)

    async def standing(self, owner: Owner, run_id: str) -> Ended | None:
        """Where the run stands, in one statement with its transcript."""
        rows = await self._ask(reading.STANDING, whose=[owner.tenant], **owner._asdict(), run_id=run_id)
        if not rows:
            return None
        status, attempt, retried, events, removed = rows[0]
        events = await self._content.transcript(owner.tenant, run_id, events)
        transcript = None if events is None else Transcript.load(attempt, events)
        return Ended(Status(status), attempt, retried, transcript, removed)

    async def claim(self, tenant: str, run_id: str, worker: str) -> Claim | Unread | None:
        """queued -> running, as the next attempt. None where somebody else was first or the run has ended.

        A run whose input cannot be opened is claimed as well: it is to be given back.
        """
        return await self._claims((tenant, run_id, worker))

    async def _claim(self, asked: Sequence[tuple[str, str, str]]) -> list[Claim | Unread | None]:
        claimed: dict[tuple[str, str, str], Claim | Unread] = {}
        for worker in {worker for _, _, worker in asked}:
            run_ids = [run_id for _, run_id, by in asked if by == worker]
            whose = sorted({tenant for tenant, _, by in asked if by == worker})
            for row in await self._ask(attempting.CLAIM, whose=whose, run_ids=run_ids, by=worker):
                claimed[row.tenant, row.id, worker] = await self._content.claim(row)
        return [claimed.pop(one, None) for one in asked]  # to one only, if two asked for the same

    async def requeue(
        self,
        tenant: str,
        run_id: str,
        attempt: int,
        *,
        reason: str,
        delay: float,
        outcome: Outcome = Outcome.RETRIED,
        error: Mapping[str, Any] | None = None,
        generation: Generation = UNKNOWN,
        findings: Sequence[Finding] = (),
        given_back: bool = False,
    ) -> Settlement | None:
        """running -> queued, to be taken up again after `delay` seconds; None where its end was asked for.

        `outcome`, `error` and `generation` are kept with the attempt, `findings` with the run; where it is
        `given_back`, the run may have another attempt in its place. Answers what the attempt came to.
        """
        return await self._ending(
            attempting.REQUEUE,
            whose=[tenant],
            since=attempt - 1,
            through=attempt,
            ended=False,
            changed_run=run_id,
            expected_attempt=attempt,
            reason=reason,
            seconds=timedelta(seconds=delay),
            more_attempts=int(given_back),
            attempt_outcome=outcome,
            attempt_error=await self._content.attempt_error(tenant, run_id, attempt, error),
            **generation_values(generation),
            **findings_values(findings),
        )

    async def end(
        self,
        tenant: str,
        run_id: str,
        ending: Ending,
        *,
        was: Status,
        attempt: int,
        entry: Entry | None = None,
    ) -> Settlement | None:
        """Write the end, if the run is still `was` at `attempt`. None means: somebody else changed it first.

        Those of the tenant's webhooks that ask for it will be told. The attempt ends as the run does, or as lapsed
        where the end is not its own. Answers what that came to. An `entry` is made in the audit log with it.
        """
        own = ending.attempt == attempt
        error = ending.error if own else None
        return await self._ending(
            attempting.END,
            whose=[tenant],
            since=attempt - 1 if was is Status.RUNNING else attempt,
            through=attempt if was is Status.RUNNING else ending.attempt,  # with what an attempt before left owed
            ended=True,
            entry=entry,
            changed_run=run_id,
            was=was,
            expected_attempt=attempt,
            ended_as=ending.status,
            event_id=new_id("evt"),
            event_type=f"run.{ending.status}",
            ended_at_attempt=ending.attempt,
            **await self._content.ending(tenant, run_id, ending),
            finished_for=ending.finish_reason,
            from_cache=ending.generation.cached,
            attempt_outcome=ending.status if own else Outcome.LAPSED,
            attempt_error=await self._content.attempt_error(tenant, run_id, attempt, error),
            **generation_values(ending.generation),
            **findings_values(ending.findings),
        )

    async def retry(
        self,
        tenant: str,
        run_id: str,
        *,
        was: Status,
        attempt: int,
        reason: str,
        hold: Hold | None = None,
        entry: Entry | None = None,
    ) -> Run | None:
        """failed | cancelled -> queued, to be taken up at once; None where it is not `was` at `attempt` any more.

        What it said and what it came to is gone from the run, but for what it cost; its attempts keep what they came
        to. With a `hold` that is not good any more it answers None. Raises what the `check` of a hold raises. An
        `entry` is made in the audit log with it.
        """
        change = {"whose": [tenant], "run_id": run_id, "was": was, "expected_attempt": attempt, "reason": reason}
        if hold is None:
            return await self._content.run(await self._change(making.RETRY, entry, **change))
        reserved = {f"{name}_now": value for name, value in hold.columns().items()}
        change |= {**reserved, "of": tenant, "epoch": hold.epoch}
        if hold.check is None:
            rows = await self._change(making.RETRY_HELD, entry, **change)
        else:
            async with held_still(self._engine, tenant, bounded=hold.take.tokens is not None) as still:
                connection, epoch, account = still
                hold.check(account)
                retry, entered = noting(making.RETRY_HELD, entry)
                rows = (await connection.execute(retry, {**change, **entered, "epoch": epoch})).all()
        return await self._content.run(rows)

    async def retry_unasked(
        self, tenant: str, run_id: str, *, was: Status, attempt: int, reason: str, entry: Entry | None = None
    ) -> Run | None:
        """As `retry`, whatever its limits say: what is reserved for it stays, and is counted anew."""
        change = {"run_id": run_id, "was": was, "expected_attempt": attempt, "reason": reason}
        rows = await self._change(making.RETRY_UNASKED, entry, whose=[tenant], **change)
        return await self._content.run(rows, strict=False)

    async def attempts(self, tenant: str, run_id: str) -> list[AttemptRecord]:
        """A run's attempts, the first one first; none where it is not there or not the tenant's."""
        asked = {"whose": [tenant], "tenant": tenant, "run_id": run_id}
        rows = await self._ask(reading.ATTEMPTS, **asked)
        return [await self._content.attempt(row) for row in rows]

    async def ended_so(self, tenant: str, run_id: str, ending: Ending) -> bool:
        """Whether the run's end is this one: for a writer that never got its answer."""
        rows = await self._ask(reading.STATUS, whose=[tenant], run_id=run_id)
        return bool(rows) and (rows[0].status, rows[0].attempt) == (ending.status, ending.attempt)

    async def request_cancel(self, tenant: str, run_id: str, *, entry: Entry | None = None) -> str | None:
        """Mark a running run as one to be stopped; answers the worker that runs it."""
        rows = await self._change(attempting.REQUEST_CANCEL, entry, whose=[tenant], of=tenant, run_id=run_id)
        return rows[0].worker if rows else None

    async def note_answer(self, tenant: str, run_id: str, attempt: int, worker: str, answer: KeptAnswer) -> bool:
        """Keep with an attempt what its answer can be read on by; False where it is not this worker's, or is over."""
        rows = await self._ask(
            attempting.NOTE_ANSWER,
            whose=[tenant],
            changed_run=run_id,
            expected_attempt=attempt,
            by=worker,
            answered_by=answer.provider,
            answered_as=answer.model,
            answered_in=answer.id,
        )
        return bool(rows)

    async def _ask_though_lost(self, statement: Executable, **values: Any) -> Sequence[Row[*tuple[Any, ...]]]:
        """Ask a second time where the connection broke: for what may be done twice."""
        try:
            return await self._ask(statement, **values)
        except Unavailable as error:
            if not connection_lost(error):
                raise
            return await self._ask(statement, **values)

    async def _ending(
        self,
        statement: Executable,
        *,
        since: int,
        through: int,
        ended: bool,
        entry: Entry | None = None,
        **values: Any,
    ) -> Settlement | None:
        rows = await self._change(statement, entry, **values, warn_call_cost=self._warn_call_cost)
        if not rows:
            return None
        row = rows[0]
        return Settlement(
            tenant=row.tenant,
            run_id=row.id,
            since=since,
            through=through,
            tokens=int(row.tokens),
            cost=in_parts(row.cost),
            at=row.at,
            ended=ended,
            reserved=row.counted,
            costly=row.costly or (),
        )


def _tenants(given: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({run["tenant"] for run in given})
