"""Find what was left behind."""

from sqlalchemy import and_, bindparam, func, literal_column, or_, select, update

from runstream.domain.run import Status
from runstream.storage.statements.parts import SECONDS
from runstream.storage.tables import attempts, runs, runs_are, workers

_UNREAD = (
    select(
        attempts.c.run_id, attempts.c.attempt, attempts.c.provider, attempts.c.provider_model, attempts.c.response_id
    )
    .join(runs, runs.c.id == attempts.c.run_id)
    .where(
        attempts.c.response_id.is_not(None),
        literal_column("attempts.outcome <> 'running'"),
        or_(runs.c.status != Status.QUEUED, runs.c.attempt != attempts.c.attempt),
    )
    .limit(bindparam("most"))
    .with_for_update(of=attempts, skip_locked=True)
    .cte("unread")
)
UNREAD = (
    update(attempts)
    .where(attempts.c.run_id == _UNREAD.c.run_id, attempts.c.attempt == _UNREAD.c.attempt)
    .values(response_id=None, owed=None)
    .returning(_UNREAD.c.provider, _UNREAD.c.provider_model, _UNREAD.c.response_id)
)
"""Answers that are left with an attempt and that no other one will take up; none is answered twice."""
LAPSED = (
    select(
        runs.c.id,
        runs.c.tenant,
        runs.c.attempt,
        runs.c.max_attempts,
        runs.c.queue,
        runs.c.cancel_requested_at.is_not(None).label("cancel_requested"),
        attempts.c.provider,
        attempts.c.provider_model,
        attempts.c.response_id,
    )
    .outerjoin(attempts, and_(attempts.c.run_id == runs.c.id, attempts.c.attempt == runs.c.attempt))
    .where(
        runs_are(Status.RUNNING),
        runs.c.worker.not_in(select(workers.c.id).where(workers.c.lease_until >= func.now())),
    )
    .limit(bindparam("most"))
)
STRANDED = (
    update(runs)
    .where(
        runs.c.status == Status.QUEUED,
        runs.c.id.in_(
            select(runs.c.id)
            .where(
                runs_are(Status.QUEUED),
                runs.c.available_at <= func.now(),
                or_(runs.c.enqueued_at.is_(None), runs.c.enqueued_at < func.now() - SECONDS),
            )
            .order_by(runs.c.available_at)
            .limit(bindparam("most"))
            .with_for_update(skip_locked=True)
        ),
    )
    .values(enqueued_at=func.now())
    .returning(runs.c.id, runs.c.attempt, runs.c.queue)
)
