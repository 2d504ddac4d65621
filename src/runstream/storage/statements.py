"""The statements about runs. They are built once: building one costs more than running it."""

from sqlalchemy import BindParameter, Interval, bindparam, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from runstream.domain.run import Status
from runstream.storage.tables import runs, runs_are, workers

_HEAVY = {"transcript", "policy", "idempotency_hash"}
SHOWN = [column for column in runs.c if column.name not in _HEAVY]
LISTED = [column for column in SHOWN if column.name not in {"input", "output"}]

_ID: BindParameter[str] = bindparam("run_id")
_WAS: BindParameter[str] = bindparam("was")
_EXPECTED: BindParameter[int] = bindparam("expected_attempt")
_SECONDS = bindparam("seconds", type_=Interval)

INSERT = (
    upsert(runs)
    .values(enqueued_at=func.now())
    .on_conflict_do_nothing(
        index_elements=[runs.c.tenant, runs.c.user_id, runs.c.idempotency_key],
        index_where=runs.c.idempotency_key.is_not(None),
    )
    .returning(*SHOWN)
)
EARLIER = select(*SHOWN, runs.c.idempotency_hash).where(
    runs.c.tenant == bindparam("tenant"),
    runs.c.user_id == bindparam("user"),
    runs.c.idempotency_key == bindparam("key"),
)
GET = select(*SHOWN).where(runs.c.tenant == bindparam("tenant"), runs.c.id == _ID)
STANDING = select(runs.c.status, runs.c.attempt, runs.c.transcript).where(
    runs.c.tenant == bindparam("tenant"), runs.c.id == _ID
)
CLAIM = (
    update(runs)
    .where(runs.c.id == _ID, runs.c.status == Status.QUEUED, runs.c.available_at <= func.now())
    .values(
        status=Status.RUNNING,
        attempt=runs.c.attempt + 1,
        worker=bindparam("by"),
        started_at=func.coalesce(runs.c.started_at, func.now()),
    )
    .returning(
        runs.c.id,
        runs.c.tenant,
        runs.c.attempt,
        runs.c.max_attempts,
        runs.c.queue,
        runs.c.feature,
        runs.c.model,
        runs.c.input,
        func.extract("epoch", func.now() - runs.c.available_at).label("waited"),
        runs.c.restart_reason,
    )
)
REQUEUE = (
    update(runs)
    .where(
        runs.c.id == _ID,
        runs.c.status == Status.RUNNING,
        runs.c.attempt == _EXPECTED,
        runs.c.cancel_requested_at.is_(None),
    )
    .values(
        status=Status.QUEUED,
        worker=None,
        restart_reason=bindparam("reason"),
        available_at=func.now() + _SECONDS,
        enqueued_at=func.now() + _SECONDS,
    )
)
END = (
    update(runs)
    .where(runs.c.id == _ID, runs.c.status == _WAS, runs.c.attempt == _EXPECTED)
    .values(worker=None, finished_at=func.now())
)
REQUEST_CANCEL = (
    update(runs)
    .where(runs.c.tenant == bindparam("of"), runs.c.id == _ID, runs.c.status == Status.RUNNING)
    .values(cancel_requested_at=func.coalesce(runs.c.cancel_requested_at, func.now()))
    .returning(runs.c.worker)
)
LAPSED = (
    select(
        runs.c.id,
        runs.c.tenant,
        runs.c.attempt,
        runs.c.max_attempts,
        runs.c.queue,
        runs.c.cancel_requested_at.is_not(None),
    )
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
                or_(runs.c.enqueued_at.is_(None), runs.c.enqueued_at < func.now() - _SECONDS),
            )
            .order_by(runs.c.available_at)
            .limit(bindparam("most"))
            .with_for_update(skip_locked=True)
        ),
    )
    .values(enqueued_at=func.now())
    .returning(runs.c.id, runs.c.attempt, runs.c.queue)
)
COUNTS = (
    select(runs.c.status, func.count().label("runs"))
    .where(runs_are(Status.QUEUED) | runs_are(Status.RUNNING))
    .group_by(runs.c.status)
)
