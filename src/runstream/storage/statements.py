"""The statements about runs and their attempts. They are built once: building one costs more than running it.

A change of a run and that of its attempt are one statement: there is no state with one and without the other.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    BindParameter,
    Interval,
    Numeric,
    Select,
    String,
    Update,
    and_,
    any_,
    bindparam,
    case,
    cast,
    column,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql import insert as upsert

from runstream.domain.run import Outcome, Status
from runstream.storage.tables import attempts, ledger, runs, runs_are, tenants, workers

_HEAVY = {"transcript", "policy", "idempotency_hash", "reserved_tokens", "reserved_cost"}
SHOWN = [column for column in runs.c if column.name not in _HEAVY]
LISTED = [column for column in SHOWN if column.name not in {"input", "output", "reasoning", "tool_calls"}]

_ID: BindParameter[str] = bindparam("run_id")
_CHANGED: BindParameter[str] = bindparam("changed_run")
"""A parameter named as a column of an UPDATE would be taken for its new value."""
_WAS: BindParameter[str] = bindparam("was")
_EXPECTED: BindParameter[int] = bindparam("expected_attempt")
_SECONDS = bindparam("seconds", type_=Interval)

_GIVEN = (
    "id",
    "tenant",
    "user_id",
    "feature",
    "prompt_version",
    "model",
    "input",
    "metadata",
    "subject_type",
    "subject_id",
    "queue",
    "status",
    "max_attempts",
    "idempotency_key",
    "idempotency_hash",
)
_NEW = (
    func.jsonb_to_recordset(bindparam("new_runs", type_=JSONB))
    .table_valued(*(column(name, runs.c[name].type) for name in _GIVEN))
    .render_derived("new", with_types=True)
)
INSERT = (
    upsert(runs)
    .from_select([*_GIVEN, "enqueued_at"], select(*_NEW.c, func.now()))
    .on_conflict_do_nothing()
    .returning(runs.c.id, runs.c.created_at)
)
"""Any number of runs; answers those that are new."""
_RESERVED = ("reserved_tokens", "reserved_cost")
_HELD_RUNS = (
    select(
        *func.jsonb_to_recordset(bindparam("new_runs", type_=JSONB))
        .table_valued(
            *(column(name, runs.c[name].type) for name in (*_GIVEN, *_RESERVED)), column("budget_epoch", BigInteger)
        )
        .render_derived("new", with_types=True)
        .c
    )
).cte("held_runs")
_HELD = (
    select(tenants.c.id, tenants.c.budget_epoch)
    .where(tenants.c.id.in_(select(_HELD_RUNS.c.tenant)))
    .with_for_update(read=True)
    .cte("held")
)
_STILL_HELD = and_(_HELD.c.id == _HELD_RUNS.c.tenant, _HELD.c.budget_epoch == _HELD_RUNS.c.budget_epoch)
_MADE = (
    upsert(runs)
    .from_select(
        [*_GIVEN, *_RESERVED, "enqueued_at"],
        select(*(_HELD_RUNS.c[name] for name in (*_GIVEN, *_RESERVED)), func.now()).join_from(
            _HELD_RUNS, _HELD, _STILL_HELD
        ),
    )
    .on_conflict_do_nothing()
    .returning(runs.c.id, runs.c.created_at)
    .cte("made")
)
INSERT_HELD = (
    select(_HELD_RUNS.c.id, _HELD.c.id.is_not(None).label("held"), _MADE.c.created_at)
    .join_from(_HELD_RUNS, _HELD, _STILL_HELD, isouter=True)
    .join(_MADE, _MADE.c.id == _HELD_RUNS.c.id, isouter=True)
)
"""Runs with a reservation. None is made where the tenant's epoch is not the reservation's any more: whoever raises it
waits for those that are being made. Answers of each whether that held, and when it was made, if it is new."""
EARLIER = select(*SHOWN, runs.c.idempotency_hash).where(
    runs.c.tenant == bindparam("tenant"),
    runs.c.user_id == bindparam("user"),
    runs.c.idempotency_key == bindparam("key"),
)
GET = select(*SHOWN).where(runs.c.tenant == bindparam("tenant"), runs.c.id == _ID)
FIND = select(*SHOWN).where(runs.c.id == _ID)
STANDING = select(runs.c.status, runs.c.attempt, runs.c.retried_attempt, runs.c.transcript).where(
    runs.c.tenant == bindparam("tenant"), runs.c.id == _ID
)
ATTEMPTS = (
    select(attempts)
    .where(attempts.c.tenant == bindparam("tenant"), attempts.c.run_id == _ID)
    .order_by(attempts.c.attempt)
)
_GENERATION: dict[str, BindParameter[Any]] = {
    name: bindparam(f"{name}_now")
    for name in (
        "provider",
        "provider_model",
        "provider_request_id",
        "input_tokens",
        "output_tokens",
        "cached_tokens",
        "usage_estimated",
        "first_token_at",
    )
}
"""Of the run that ends with an attempt, and of the attempt."""
_COST: BindParameter[Any] = bindparam("cost_now", type_=runs.c.cost.type)
_OWED = (
    select(attempts.c.owed["cost"].astext.cast(Numeric))
    .where(attempts.c.run_id == runs.c.id, attempts.c.attempt == runs.c.attempt)
    .scalar_subquery()
)
_NEW_COST = case((runs.c.status == Status.RUNNING, _COST), else_=_OWED)
_SPENT = func.coalesce(runs.c.cost + _NEW_COST, runs.c.cost, _NEW_COST)
"""What the run has cost: its attempts before, and the one that goes on or what the last one left unread."""
_CALL = (
    "call",
    "provider",
    "provider_model",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "estimated",
    "cost",
    "price_version",
)
_CALLS = (
    func.jsonb_to_recordset(bindparam("provider_calls", type_=JSONB))
    .table_valued(*(column(name, ledger.c[name].type) for name in _CALL))
    .render_derived("called", with_types=True)
)


def _beginning(claim: Update) -> Select[Any]:
    """`claim`, with a row for the attempt that it begins, to which the answer that the last one left goes over."""
    claimed = claim.cte("claimed")
    last = attempts.alias("last")
    left = and_(
        last.c.run_id == claimed.c.id,
        last.c.attempt == claimed.c.attempt - 1,
        last.c.outcome.in_([Outcome.LAPSED, Outcome.HANDED_BACK, Outcome.RETRIED]),
        last.c.response_id.is_not(None),
    )
    columns = {
        "run_id": claimed.c.id,
        "attempt": claimed.c.attempt,
        "tenant": claimed.c.tenant,
        "worker": claimed.c.worker,
        "outcome": literal(Outcome.RUNNING, attempts.c.outcome.type),
        **{name: last.c[name] for name in ("provider", "provider_model", "response_id")},
    }
    from_last = claimed.outerjoin(last, left)
    begun = insert(attempts).from_select([*columns], select(*columns.values()).select_from(from_last)).cte("begun")
    given = (
        update(attempts)
        .where(
            attempts.c.run_id == claimed.c.id,
            attempts.c.attempt == claimed.c.attempt - 1,
            attempts.c.response_id.is_not(None),
        )
        .values(response_id=None, owed=None)
        .cte("given")
    )
    found = {"left_by": "provider", "left_by_model": "provider_model", "left": "response_id", "owed": "owed"}
    return (
        select(claimed, *(last.c[column].label(name) for name, column in found.items()))
        .select_from(from_last)
        .add_cte(begun)
        .add_cte(given)
    )


def _ending(change: Update, was: BindParameter[str] | None = None) -> Select[Any]:
    """`change`, with the row of the attempt that it ends, and the calls that it made in the ledger.

    Answers what was spent where it changed something. An attempt that has ended stays as it is, and is not paid for
    again: the run `was` waiting for another one. What is owed for an answer that this one would have read is paid now.
    """
    changed = change.returning(
        runs.c.id, runs.c.tenant, runs.c.user_id, runs.c.feature, runs.c.model, runs.c.reserved_tokens
    ).cte("changed")
    closed = (
        update(attempts)
        .where(
            attempts.c.run_id == changed.c.id,
            attempts.c.attempt == _EXPECTED,
            attempts.c.outcome == Outcome.RUNNING,
        )
        .values(
            outcome=bindparam("attempt_outcome"),
            error=bindparam("attempt_error"),
            ended_at=func.now(),
            cost=_COST,
            response_id=bindparam("response_id_now"),
            owed=bindparam("owed_now"),
            **_GENERATION,
        )
        .returning(attempts.c.run_id, attempts.c.attempt, attempts.c.tenant)
        .cte("closed")
    )
    entry = {
        "run_id": closed.c.run_id,
        "attempt": closed.c.attempt,
        "tenant": closed.c.tenant,
        "user_id": changed.c.user_id,
        "feature": changed.c.feature,
        "model": changed.c.model,
        **{name: _CALLS.c[name] for name in _CALL},
    }
    entries = select(*entry.values()).select_from(closed.join(changed, closed.c.run_id == changed.c.id))
    called = entries.join_from(closed, _CALLS, true())
    entered = (
        insert(ledger)
        .from_select([*entry], called if was is None else called.union_all(_owed_by(changed, was, [*entry])))
        .returning(ledger.c.input_tokens, ledger.c.output_tokens, ledger.c.cost)
        .cte("entered")
    )
    tokens = func.sum(cast(entered.c.input_tokens, BigInteger) + entered.c.output_tokens)
    return select(
        changed.c.id,
        changed.c.tenant,
        changed.c.reserved_tokens,
        func.now().label("at"),  # as the ledger has it
        select(func.coalesce(tokens, 0)).scalar_subquery().label("tokens"),
        select(func.coalesce(func.sum(entered.c.cost), 0)).scalar_subquery().label("cost"),
    ).add_cte(closed)


def _owed_by(changed: CTE, was: BindParameter[str], names: Sequence[str]) -> Select[Any]:
    """The ledger's entry for an answer that the last attempt left to be read on, where the run ends without another."""
    one = func.jsonb_to_record(attempts.c.owed)
    columns = (column(name, ledger.c[name].type) for name in _CALL)
    call = one.table_valued(*columns).render_derived("one", with_types=True)
    entry = {
        "run_id": attempts.c.run_id,
        "attempt": attempts.c.attempt,
        "tenant": attempts.c.tenant,
        "user_id": changed.c.user_id,
        "feature": changed.c.feature,
        "model": changed.c.model,
        **{name: call.c[name] for name in _CALL},
    }
    return (
        select(*(entry[name] for name in names))
        .select_from(changed.join(attempts, attempts.c.run_id == changed.c.id).join(call, true()))
        .where(literal(Status.QUEUED) == was, attempts.c.attempt == _EXPECTED, attempts.c.owed.is_not(None))
    )


CLAIM = _beginning(
    update(runs)
    .where(
        runs.c.id == any_(bindparam("run_ids", type_=ARRAY(String))),
        runs.c.status == Status.QUEUED,
        runs.c.available_at <= func.now(),
    )
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
        runs.c.worker,
        func.extract("epoch", func.now() - runs.c.available_at).label("waited"),
        runs.c.restart_reason,
        runs.c.cost,
    )
)
REQUEUE = _ending(
    update(runs)
    .where(
        runs.c.id == _CHANGED,
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
        cost=_SPENT,
    )
)
END = _ending(
    update(runs)
    .where(runs.c.id == _CHANGED, runs.c.status == _WAS, runs.c.attempt == _EXPECTED)
    .values(
        worker=None,
        finished_at=func.now(),
        status=bindparam("ended_as"),
        attempt=bindparam("ended_at_attempt"),
        transcript=bindparam("whole_transcript"),
        output=bindparam("whole_output"),
        reasoning=bindparam("whole_reasoning"),
        tool_calls=bindparam("whole_tool_calls"),
        error=bindparam("run_error"),
        finish_reason=bindparam("finished_for"),
        cost=_SPENT,
        **_GENERATION,
    ),
    was=_WAS,
)
_RETRY = (
    update(runs)
    .where(runs.c.id == _ID, runs.c.status == _WAS, runs.c.attempt == _EXPECTED)
    .values(
        status=Status.QUEUED,
        restart_reason=bindparam("reason"),
        retried_attempt=runs.c.attempt,
        max_attempts=func.greatest(runs.c.max_attempts, runs.c.attempt + 1),
        available_at=func.now(),
        enqueued_at=func.now(),
        usage_estimated=False,
        cached=False,
        **dict.fromkeys(
            (
                "output",
                "reasoning",
                "tool_calls",
                "transcript",
                "error",
                "finish_reason",
                "provider",
                "provider_model",
                "provider_request_id",
                "input_tokens",
                "output_tokens",
                "cached_tokens",
                "first_token_at",
                "cancel_requested_at",
                "finished_at",
            )
        ),
    )
    .returning(*SHOWN)
)
RETRY = _RETRY.values(dict.fromkeys(_RESERVED))
_HOLDING = (
    select(tenants.c.id)
    .where(tenants.c.id == bindparam("of"), tenants.c.budget_epoch == bindparam("epoch"))
    .with_for_update(read=True)
    .cte("holding")
)
RETRY_HELD = _RETRY.where(runs.c.tenant == _HOLDING.c.id).values(
    {name: bindparam(f"{name}_now", type_=runs.c[name].type) for name in _RESERVED}
)
"""With a reservation, as INSERT_HELD."""
_AGAIN = _RETRY.cte("again")
RETRY_UNASKED = select(_AGAIN).add_cte(
    update(tenants).where(tenants.c.id == _AGAIN.c.tenant).values(budget_epoch=tenants.c.budget_epoch + 1).cte("raised")
)
"""Without asking whether it may: what is counted of the tenant is to be read anew, and this run with it."""
RAISE_EPOCH = (
    update(tenants)
    .where(tenants.c.id == bindparam("of"))
    .values(budget_epoch=tenants.c.budget_epoch + 1)
    .returning(tenants.c.budget_epoch)
)
REQUEST_CANCEL = (
    update(runs)
    .where(runs.c.tenant == bindparam("of"), runs.c.id == _ID, runs.c.status == Status.RUNNING)
    .values(cancel_requested_at=func.coalesce(runs.c.cancel_requested_at, func.now()))
    .returning(runs.c.worker)
)
NOTE_ANSWER = (
    update(attempts)
    .where(
        attempts.c.run_id == _CHANGED,
        attempts.c.attempt == _EXPECTED,
        attempts.c.worker == bindparam("by"),
        attempts.c.outcome == Outcome.RUNNING,
    )
    .values(
        provider=bindparam("answered_by"), provider_model=bindparam("answered_as"), response_id=bindparam("answered_in")
    )
    .returning(attempts.c.run_id)
)
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
QUEUED = (
    select(runs.c.tenant, func.count().label("runs"))
    .where(runs_are(Status.QUEUED), runs.c.queue == bindparam("in_queue"))
    .group_by(runs.c.tenant)
)
COUNTS = (
    select(runs.c.status, func.count().label("runs"))
    .where(runs_are(Status.QUEUED) | runs_are(Status.RUNNING))
    .group_by(runs.c.status)
)
