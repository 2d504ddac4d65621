"""Find what was left behind."""

from sqlalchemy import String, and_, any_, bindparam, func, literal, literal_column, or_, select, true, update
from sqlalchemy.dialects.postgresql import ARRAY

from runstream.domain.run import Status
from runstream.storage.statements.parts import SECONDS, served
from runstream.storage.tables import attempts, runs, runs_are, tenants, workers

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
        runs.c.priority,
        runs.c.cancel_requested_at.is_not(None).label("cancel_requested"),
        attempts.c.provider,
        attempts.c.provider_model,
        attempts.c.response_id,
        attempts.c.shared,
    )
    .outerjoin(attempts, and_(attempts.c.run_id == runs.c.id, attempts.c.attempt == runs.c.attempt))
    .where(
        runs_are(Status.RUNNING),
        runs.c.worker.not_in(select(workers.c.id).where(workers.c.lease_until >= func.now())),
    )
    .order_by(func.row_number().over(partition_by=runs.c.tenant, order_by=(runs.c.priority, runs.c.id)))
    .limit(bindparam("most"))
)
_FIRST_WAITING = (
    select(func.min(runs.c.tenant).label("tenant"), literal(1).label("nth"))
    .where(runs_are(Status.QUEUED), runs.c.tenant > bindparam("beyond"))
    .cte("waiting", recursive=True)
)
_NEXT_WAITING = select(func.min(runs.c.tenant)).where(runs_are(Status.QUEUED), runs.c.tenant > _FIRST_WAITING.c.tenant)
_WAITING = _FIRST_WAITING.union_all(
    select(_NEXT_WAITING.scalar_subquery(), _FIRST_WAITING.c.nth + 1).where(
        _FIRST_WAITING.c.tenant.is_not(None), _FIRST_WAITING.c.nth < bindparam("most")
    )
)
WAITING = select(_WAITING.c.tenant).where(_WAITING.c.tenant.is_not(None)).order_by(_WAITING.c.tenant)
"""Tenants that have queued runs, in order: one look at the index for each, however many runs there are."""
_OVERDUE = and_(
    runs_are(Status.QUEUED),
    runs.c.available_at <= func.now(),
    or_(runs.c.enqueued_at.is_(None), runs.c.enqueued_at < func.now() - SECONDS),
)
_TENANTS = func.unnest(bindparam("of_tenants", type_=ARRAY(String))).table_valued("tenant").render_derived("of_tenants")
_GOES_FIRST = (runs.c.priority, runs.c.available_at)
_OF_EACH = (
    select(runs.c.id, func.row_number().over(order_by=_GOES_FIRST).label("nth"))
    .where(_OVERDUE, runs.c.tenant == _TENANTS.c.tenant)
    .order_by(*_GOES_FIRST)
    .limit(bindparam("most"))
    .lateral("of_each")
)
_BY_TURNS = (
    select(_OF_EACH.c.id)
    .join_from(_TENANTS, _OF_EACH, true())
    .where(served(_TENANTS.c.tenant))
    .order_by(_OF_EACH.c.nth)
    .limit(bindparam("most"))
)
STRANDED = (
    update(runs)
    .where(runs.c.id.in_(select(runs.c.id).where(runs.c.id.in_(_BY_TURNS), _OVERDUE).with_for_update(skip_locked=True)))
    .values(enqueued_at=func.now())
    .returning(runs.c.id, runs.c.tenant, runs.c.attempt, runs.c.queue, runs.c.priority)
)
"""The first run of each tenant that is served, then the second ones.

What another sweep has at that moment is left to it."""
_NAMED = bindparam("of_tenants", type_=ARRAY(String))
STOP = (
    update(runs)
    .where(
        runs_are(Status.RUNNING),
        runs.c.cancel_requested_at.is_(None),
        runs.c.tenant.in_(select(tenants.c.id).where(tenants.c.id == any_(_NAMED), tenants.c.cancel_running)),
    )
    .values(cancel_requested_at=func.now())
    .returning(runs.c.id, runs.c.worker)
)
"""What still runs of suspended tenants, where that is to be cancelled."""
