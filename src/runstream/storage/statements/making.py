"""Have a run wait to be taken up: a new one, or one that has ended, with a reservation or without."""

from sqlalchemy import BigInteger, and_, bindparam, column, func, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert

from runstream.domain.run import Status
from runstream.storage.statements.parts import EXPECTED, ID, RESERVED, SHOWN, WAS
from runstream.storage.tables import runs, tenants
from runstream.storage.tenancy import bound

_GIVEN = (
    "id",
    "tenant",
    "user_id",
    "feature",
    "prompt_version",
    "model",
    "complexity",
    "input",
    "policy",
    "metadata",
    "subject_type",
    "subject_id",
    "queue",
    "priority",
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
INSERT = bound(
    upsert(runs)
    .from_select([*_GIVEN, "enqueued_at"], select(*_NEW.c, func.now()))
    .on_conflict_do_nothing()
    .returning(runs.c.id, runs.c.created_at)
)
"""Any number of runs; answers those that are new."""
_HELD_RUNS = (
    select(
        *func.jsonb_to_recordset(bindparam("new_runs", type_=JSONB))
        .table_valued(
            *(column(name, runs.c[name].type) for name in (*_GIVEN, *RESERVED)), column("budget_epoch", BigInteger)
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
        [*_GIVEN, *RESERVED, "enqueued_at"],
        select(*(_HELD_RUNS.c[name] for name in (*_GIVEN, *RESERVED)), func.now()).join_from(
            _HELD_RUNS, _HELD, _STILL_HELD
        ),
    )
    .on_conflict_do_nothing()
    .returning(runs.c.id, runs.c.created_at)
    .cte("made")
)
INSERT_HELD = bound(
    select(_HELD_RUNS.c.id, _HELD.c.id.is_not(None).label("held"), _MADE.c.created_at)
    .join_from(_HELD_RUNS, _HELD, _STILL_HELD, isouter=True)
    .join(_MADE, _MADE.c.id == _HELD_RUNS.c.id, isouter=True)
)
"""Runs with a reservation. None is made where the tenant's epoch is not the reservation's any more: whoever raises it
waits for those that are being made. Answers of each whether that held, and when it was made, if it is new."""
_RETRY = (
    update(runs)
    .where(runs.c.id == ID, runs.c.status == WAS, runs.c.attempt == EXPECTED, runs.c.input_removed_at.is_(None))
    .values(
        status=Status.QUEUED,
        restart_reason=bindparam("reason"),
        retried_attempt=runs.c.attempt,
        max_attempts=func.greatest(runs.c.max_attempts, runs.c.attempt + 1),
        available_at=func.now(),
        enqueued_at=func.now(),
        usage_estimated=False,
        cached=False,
        flagged=False,
        **dict.fromkeys(
            (
                "output",
                "reasoning",
                "tool_calls",
                "transcript",
                "error",
                "findings",
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
                "output_removed_at",
                "transcript_removed_at",
            )
        ),
    )
    .returning(*SHOWN)
)
RETRY = bound(_RETRY.values(dict.fromkeys(RESERVED)))
_HOLDING = (
    select(tenants.c.id)
    .where(tenants.c.id == bindparam("of"), tenants.c.budget_epoch == bindparam("epoch"))
    .with_for_update(read=True)
    .cte("holding")
)
RETRY_HELD = bound(
    _RETRY.where(runs.c.tenant == _HOLDING.c.id).values(
        {name: bindparam(f"{name}_now", type_=runs.c[name].type) for name in RESERVED}
    )
)
"""With a reservation, as INSERT_HELD."""
_AGAIN = _RETRY.cte("again")
_RAISED = update(tenants).where(tenants.c.id == _AGAIN.c.tenant).values(budget_epoch=tenants.c.budget_epoch + 1)
RETRY_UNASKED = bound(select(_AGAIN).add_cte(_RAISED.cte("raised")))
"""Without asking whether it may: what is counted of the tenant is to be read anew, and this run with it."""
RAISE_EPOCH = bound(
    update(tenants)
    .where(tenants.c.id == bindparam("of"))
    .values(budget_epoch=tenants.c.budget_epoch + 1)
    .returning(tenants.c.budget_epoch)
)
