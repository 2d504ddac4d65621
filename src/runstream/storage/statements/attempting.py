"""Begin an attempt, and end it.

A change of a run, that of its attempt, and the ledger's entries are one statement: there is no state with one and
without the others.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    BindParameter,
    ColumnElement,
    Integer,
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
    false,
    func,
    insert,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from runstream.domain.run import Outcome, Status
from runstream.storage.statements.announcing import FACTS, announcing
from runstream.storage.statements.parts import CALLED, CHANGED, EXPECTED, ID, SECONDS, WAS, has_terms, served
from runstream.storage.tables import attempts, ledger, runs
from runstream.storage.tenancy import bound

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
_FOUND: BindParameter[Any] = bindparam("findings_now", type_=runs.c.findings.type)
_FINDINGS: dict[str, ColumnElement[Any]] = {
    "findings": func.coalesce(_FOUND, runs.c.findings),
    "flagged": case((_FOUND.is_(None), runs.c.flagged), else_=bindparam("flagged_now", type_=runs.c.flagged.type)),
}
"""Of the attempt that ends, or else of one before."""
_CALL = (*CALLED, "cached", "saved_cost")
_TOLD = ("attempt", "user_id", "feature", "model", *_CALL[1:6], "cost")
_CHANGED = ("id", "tenant", "user_id", "feature", "model", "reserved_tokens")
_WARN_CALL_COST: BindParameter[Any] = bindparam("warn_call_cost", type_=ledger.c.cost.type)
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
    return bound(
        select(claimed, *(last.c[column].label(name) for name, column in found.items()))
        .select_from(from_last)
        .add_cte(begun)
        .add_cte(given)
    )


def _ending(change: Update, was: BindParameter[str] | None = None) -> Select[Any]:
    """`change`, with the row of the attempt that it ends, and the calls that it made in the ledger.

    Answers what was spent where it changed something. An attempt that has ended stays as it is, and is not paid for
    again: the run `was` waiting for another one. What is owed for an answer that this one would have read is paid now.
    Where `was` is given the run ends, and webhooks are to be told of it.
    """
    names = dict.fromkeys(_CHANGED if was is None else (*_CHANGED, *FACTS))
    changed = change.returning(*(runs.c[name] for name in names)).cte("changed")
    closed = (
        update(attempts)
        .where(
            attempts.c.run_id == changed.c.id,
            attempts.c.attempt == EXPECTED,
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
        .returning(*(ledger.c[name] for name in _TOLD))
        .cte("entered")
    )
    told = func.jsonb_build_object(*(part for name in _TOLD for part in (literal(name), entered.c[name])))
    costly = select(func.jsonb_agg(told)).where(entered.c.cost > _WARN_CALL_COST)
    tokens = func.sum(cast(entered.c.input_tokens, BigInteger) + entered.c.output_tokens)
    settled = select(
        changed.c.id,
        changed.c.tenant,
        or_(changed.c.reserved_tokens.is_not(None), has_terms(changed.c.tenant)).label("counted"),
        func.now().label("at"),  # as the ledger has it
        select(func.coalesce(tokens, 0)).scalar_subquery().label("tokens"),
        select(func.coalesce(func.sum(entered.c.cost), 0)).scalar_subquery().label("cost"),
        costly.scalar_subquery().label("costly"),
    ).add_cte(closed)
    return bound(settled if was is None else settled.add_cte(announcing(changed)))


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
        "cached": false(),
    }
    return (
        select(*(entry[name] for name in names))
        .select_from(changed.join(attempts, attempts.c.run_id == changed.c.id).join(call, true()))
        .where(literal(Status.QUEUED) == was, attempts.c.attempt == EXPECTED, attempts.c.owed.is_not(None))
    )


CLAIM = _beginning(
    update(runs)
    .where(
        runs.c.id == any_(bindparam("run_ids", type_=ARRAY(String))),
        runs.c.status == Status.QUEUED,
        runs.c.available_at <= func.now(),
        served(runs.c.tenant),
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
        runs.c.priority,
        runs.c.feature,
        runs.c.prompt_version,
        runs.c.model,
        runs.c.complexity,
        runs.c.input,
        runs.c.policy["cache"].astext.label("cache"),
        runs.c.worker,
        func.extract("epoch", func.now() - runs.c.available_at).label("waited"),
        runs.c.restart_reason,
        runs.c.cost,
    )
)
REQUEUE = _ending(
    update(runs)
    .where(
        runs.c.id == CHANGED,
        runs.c.status == Status.RUNNING,
        runs.c.attempt == EXPECTED,
        runs.c.cancel_requested_at.is_(None),
    )
    .values(
        status=Status.QUEUED,
        worker=None,
        max_attempts=runs.c.max_attempts + bindparam("more_attempts", type_=Integer),
        restart_reason=bindparam("reason"),
        available_at=func.now() + SECONDS,
        enqueued_at=func.now() + SECONDS,
        cost=_SPENT,
        **_FINDINGS,
    )
)
END = _ending(
    update(runs)
    .where(runs.c.id == CHANGED, runs.c.status == WAS, runs.c.attempt == EXPECTED)
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
        **_FINDINGS,
        cached=bindparam("from_cache"),
        **_GENERATION,
    ),
    was=WAS,
)
REQUEST_CANCEL = bound(
    update(runs)
    .where(runs.c.tenant == bindparam("of"), runs.c.id == ID, runs.c.status == Status.RUNNING)
    .values(cancel_requested_at=func.coalesce(runs.c.cancel_requested_at, func.now()))
    .returning(runs.c.worker)
)
NOTE_ANSWER = bound(
    update(attempts)
    .where(
        attempts.c.run_id == CHANGED,
        attempts.c.attempt == EXPECTED,
        attempts.c.worker == bindparam("by"),
        attempts.c.outcome == Outcome.RUNNING,
    )
    .values(
        provider=bindparam("answered_by"), provider_model=bindparam("answered_as"), response_id=bindparam("answered_in")
    )
    .returning(attempts.c.run_id)
)
