"""Tenants and the terms that they are served on. Each change is counted, so that processes find it at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Row,
    and_,
    bindparam,
    case,
    delete,
    func,
    literal,
    not_,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.audit import Entry
from runstream.domain.errors import NotFound
from runstream.domain.flags import Flag
from runstream.domain.run import Status
from runstream.domain.terms import Allowance, Source, Standing, TenantTerms, Terms
from runstream.storage.audit import ask_noting
from runstream.storage.database import ask
from runstream.storage.statements.changing import COUNTED, RAISED, VERSION
from runstream.storage.tables import api_keys, flags, plans, runs, runs_are, tenants, terms

_PROMPT = timedelta(seconds=5)
"""Runs whose jobs were put in the queue since then are not overdue to the sweep yet: it is to see to them at once."""


@dataclass(frozen=True, slots=True)
class TenantRecord:
    id: str
    standing: Standing
    cancel_running: bool
    created_at: datetime
    suspended_at: datetime | None
    removal_requested_at: datetime | None
    plan: str | None
    overrides: Mapping[str, Any] | None


def _json(told: Mapping[str, ColumnElement[Any]]) -> ColumnElement[Any]:
    return func.jsonb_build_object(*(part for name, value in told.items() for part in (literal(name), value)))


_STANDING: ColumnElement[str] = case(
    (tenants.c.removal_requested_at.is_not(None), literal(Standing.REMOVING)),
    (tenants.c.suspended_at.is_not(None), literal(Standing.SUSPENDED)),
    else_=literal(Standing.ACTIVE),
)
_SHOWN = [
    tenants.c.id,
    _STANDING.label("standing"),
    tenants.c.cancel_running,
    tenants.c.created_at,
    tenants.c.suspended_at,
    tenants.c.removal_requested_at,
    tenants.c.plan,
    tenants.c.overrides,
]
_KNOWN = bindparam("known", type_=BigInteger)
_VERSION = func.coalesce(select(terms.c.version).scalar_subquery(), 0)
_TOLD: dict[str, ColumnElement[Any]] = {
    "standing": _STANDING,
    "cancel_running": tenants.c.cancel_running,
    **{name: tenants.c[name] for name in ("plan", "overrides", "changed_in")},
}
_TENANTS = (
    select(func.jsonb_object_agg(tenants.c.id, _json(_TOLD)))
    .where(or_(tenants.c.suspended_at.is_not(None), tenants.c.changed_in.is_not(None)))
    .scalar_subquery()
)
_PLANS = select(
    func.jsonb_object_agg(plans.c.name, _json({name: plans.c[name] for name in ("allowance", "changed_in")}))
).scalar_subquery()
_FLAGS = select(func.jsonb_object_agg(flags.c.name, flags.c.rule)).scalar_subquery()
_READ = select(
    _VERSION.label("version"), _TENANTS.label("tenants"), _PLANS.label("plans"), _FLAGS.label("flags")
).where(or_(_KNOWN.is_(None), _VERSION.is_distinct_from(_KNOWN)))
"""All in one statement, so that it is all of one version."""
_OF = tenants.c.id == bindparam("of")
_GET = select(*_SHOWN).where(_OF)
_PAGE = select(*_SHOWN).where(tenants.c.id > bindparam("after")).order_by(tenants.c.id).limit(bindparam("most"))
_CREATE = upsert(tenants).values(id=bindparam("new")).on_conflict_do_nothing().returning(*_SHOWN)
_KEPT = and_(COUNTED, _OF, tenants.c.removal_requested_at.is_(None))
_CANCEL = bindparam("cancel", type_=Boolean)
_SUSPEND = (
    update(tenants)
    .where(_KEPT, or_(tenants.c.suspended_at.is_(None), and_(_CANCEL, not_(tenants.c.cancel_running))))
    .values(
        suspended_at=func.coalesce(tenants.c.suspended_at, func.now()),
        cancel_running=or_(tenants.c.cancel_running, _CANCEL),
    )
    .returning(*_SHOWN)
    .add_cte(RAISED)
)
_RESUME = (
    update(tenants)
    .where(_KEPT, tenants.c.suspended_at.is_not(None))
    .values(suspended_at=None, cancel_running=False)
    .returning(*_SHOWN)
    .add_cte(
        update(runs)
        .where(
            runs.c.tenant == bindparam("of"),
            runs_are(Status.QUEUED),
            runs.c.available_at <= func.now(),
            runs.c.enqueued_at > func.now() - _PROMPT,
        )
        .values(enqueued_at=None)
        .cte("prompted"),
        RAISED,
    )
)
_ALLOW = update(tenants).where(_KEPT).returning(*_SHOWN).add_cte(RAISED)
_REMOVE = (
    update(tenants)
    .where(_KEPT, tenants.c.suspended_at.is_not(None))
    .values(removal_requested_at=func.now(), cancel_running=True)
    .returning(*_SHOWN)
    .add_cte(
        update(api_keys)
        .where(
            api_keys.c.tenant == bindparam("of"),
            api_keys.c.revoked_at.is_(None),
            select(tenants.c.id).where(_OF, tenants.c.suspended_at.is_not(None)).exists(),
        )
        .values(revoked_at=func.now(), changed_at=func.now())
        .cte("revoked"),
        RAISED,
    )
)
_FORGOTTEN = (
    delete(tenants)
    .where(COUNTED, _OF, tenants.c.removal_requested_at.is_not(None))
    .returning(tenants.c.id)
    .add_cte(RAISED)
    .cte("forgotten")
)
_FORGET = select(func.remove_audit(_FORGOTTEN.c.id, text("'infinity'")).label("entries")).select_from(_FORGOTTEN)
"""Entries are of the clocks of those who made them, which may be ahead."""


class TermsStore:
    """Over all tenants. What is changed is changed together with its `entry` in the audit log.

    Every method raises Unavailable.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._ask = partial(ask, engine)
        self._change = partial(ask_noting, engine)

    async def read(self, known: int | None = None) -> Terms | None:
        """All terms, unless they are of the version that is known already."""
        rows = await self._ask(_READ, known=known)
        return _terms(rows[0]) if rows else None

    async def create(self, tenant: str, *, entry: Entry | None = None) -> TenantRecord | None:
        """None where it is there already."""
        return _one(await self._change(_CREATE, entry, new=tenant))

    async def get(self, tenant: str) -> TenantRecord | None:
        return _one(await self._ask(_GET, of=tenant))

    async def page(self, *, after: str, limit: int) -> Sequence[TenantRecord]:
        """By name; `after` is the last one of the page before, or empty."""
        rows = await self._ask(_PAGE, after=after, most=limit)
        return [_record(row) for row in rows]

    async def suspend(self, tenant: str, *, cancel_running: bool, entry: Entry | None = None) -> TenantRecord | None:
        """None where it is so already, is not there, or is being removed.

        What was asked to be cancelled once stays so.
        """
        return _one(await self._change(_SUSPEND, entry, of=tenant, cancel=cancel_running))

    async def resume(self, tenant: str, *, entry: Entry | None = None) -> TenantRecord | None:
        """None as `suspend`. Its queued runs are due to the sweep at once."""
        return _one(await self._change(_RESUME, entry, of=tenant))

    async def allow(
        self, tenant: str, changes: Mapping[str, Any], *, entry: Entry | None = None
    ) -> TenantRecord | None:
        """Put another `plan` or other `overrides` in the place of what is there; None as `suspend`.

        Raises NotFound where there is no such plan.
        """
        other = or_(*(tenants.c[name].is_distinct_from(value) for name, value in changes.items()))
        changed = _ALLOW.where(other).values(changed_in=VERSION, **changes)
        try:
            return _one(await self._change(changed, entry, of=tenant))
        except IntegrityError:
            raise NotFound("There is no such plan.", param="plan") from None

    async def remove(self, tenant: str, *, entry: Entry | None = None) -> TenantRecord | None:
        """Ask for its removal, and revoke its keys; None as `suspend`, and where it is not suspended."""
        return _one(await self._change(_REMOVE, entry, of=tenant))

    async def forget(self, tenant: str, *, entry: Entry) -> bool:
        """End a removal, once nothing refers to the tenant any more; whether it was there.

        What the audit log has of the tenant goes with it. So the `entry` is not to be of the tenant.
        """
        return bool(await self._change(_FORGET, entry, of=tenant))


def _terms(row: Row[Any]) -> Terms:
    plans = {name: (Allowance.of(told["allowance"]), told["changed_in"]) for name, told in (row.plans or {}).items()}
    tenants = {tenant: _tenant(told, plans) for tenant, told in (row.tenants or {}).items()}
    flags = tuple(Flag.of(name, rule) for name, rule in sorted((row.flags or {}).items()))
    return Terms(row.version, tenants, flags)


def _tenant(told: Mapping[str, Any], plans: Mapping[str, tuple[Allowance, int]]) -> TenantTerms:
    allowances, stamp = [], [told["changed_in"] or 0]
    if (plan := plans.get(told["plan"])) is not None:
        allowances.append((Source.PLAN, plan[0]))
        stamp.append(plan[1])
    if told["overrides"]:
        allowances.append((Source.OVERRIDE, Allowance.of(told["overrides"])))
    return TenantTerms(
        Standing(told["standing"]), told["cancel_running"], told["plan"], tuple(allowances), tuple(stamp)
    )


def _one(rows: Sequence[Row[Any]]) -> TenantRecord | None:
    return _record(rows[0]) if rows else None


def _record(row: Row[Any]) -> TenantRecord:
    return TenantRecord(**{**row._mapping, "standing": Standing(row.standing)})
