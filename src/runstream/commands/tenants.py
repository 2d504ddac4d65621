"""What the tenants, plans and flags commands do."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from runstream.api.schemas.flags import RuleObject
from runstream.api.schemas.plans import AllowanceObject
from runstream.connections import limits as limits_of
from runstream.connections import redis_client
from runstream.domain.errors import InvalidField, InvalidRequest
from runstream.domain.flags import Flag
from runstream.gateway.limits import Limits
from runstream.logs import configure
from runstream.settings import load
from runstream.storage.command import opened
from runstream.storage.documents import FLAGS, PLANS, DocumentStore
from runstream.storage.terms import TenantRecord, TermsStore
from runstream.terminal import at_terminal
from runstream.terms.copy import TermsCopy
from runstream.terms.documents import Named
from runstream.terms.tenants import Tenants

_PAGE = 100

ModelT = TypeVar("ModelT", bound=BaseModel)


async def create(tenant: str) -> str:
    async with _tenants() as tenants:
        return _line(await tenants.create(tenant, by=at_terminal()))


async def listed() -> list[str]:
    """A line for each tenant."""
    lines: list[str] = []
    after = ""
    async with _tenants() as tenants:
        while page := await tenants.page(after=after, limit=_PAGE):
            lines += map(_line, page)
            after = page[-1].id
    return lines


async def shown(tenant: str) -> list[str]:
    """What is kept of it, and what holds for it with the settings of this process, and where that is said."""
    async with _desk() as desk:
        record = await desk.tenants.get(tenant)
        terms = desk.terms().of(tenant)
        limits = [f"{name:34}{most}  ({source})" for name, most, source in desk.limits.holding(tenant)]
    others = {name: terms.holding(name) for name in ("features", "models", "retention_days")}
    said = [f"{name:34}{_text(value)}  ({source})" for name, (value, source) in others.items() if value is not None]
    return [_line(record), *limits, *said]


async def allow(tenant: str, *, plan: str | None, overrides: str | None) -> str:
    """Each where it is given; empty for none. Raises InvalidField."""
    changes: dict[str, Any] = {}
    if plan is not None:
        changes["plan"] = plan or None
    if overrides is not None:
        changes["overrides"] = (read_allowance(overrides) or None) if overrides else None
    if not changes:
        raise InvalidRequest("Say --plan, --overrides or both.")
    async with _tenants() as tenants:
        return _line(await tenants.allow(tenant, changes, by=at_terminal()))


async def plans() -> list[str]:
    """A line for each plan."""
    async with _desk() as desk:
        return [f"{plan.name}  {json.dumps(plan.said)}" for plan in await desk.plans.list()]


async def put_plan(name: str, allowance: str) -> None:
    async with _desk() as desk:
        await desk.plans.put(name, read_allowance(allowance), by=at_terminal())


async def remove_plan(name: str) -> None:
    async with _desk() as desk:
        await desk.plans.remove(name, by=at_terminal())


async def flags() -> list[str]:
    """A line for each flag."""
    async with _desk() as desk:
        return [f"{flag.name}  {json.dumps(flag.said)}" for flag in await desk.flags.list()]


async def put_flag(name: str, rule: str) -> None:
    async with _desk() as desk:
        await desk.flags.put(name, _read(RuleObject, rule).said(), by=at_terminal())


async def remove_flag(name: str) -> None:
    async with _desk() as desk:
        await desk.flags.remove(name, by=at_terminal())


async def explain(name: str, tenant: str, user: str) -> str:
    """Whether it is on for a user, and why."""
    async with _desk() as desk:
        found = await desk.flags.get(name)
    decision = Flag.of(found.name, found.said).decide(tenant, user)
    why = f"{decision.reason}, share {decision.share}, position {decision.position:.6f}"
    return f"{name} is {'on' if decision.on else 'off'} for {user} of {tenant}: {why}"


def read_allowance(text: str) -> dict[str, Any]:
    """From JSON, as the routes take it. Raises InvalidField."""
    return _read(AllowanceObject, text).said()


def _read(model: type[ModelT], text: str) -> ModelT:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(map(str, first["loc"])) or "JSON"
        raise InvalidField.at(path, first["msg"]) from None


async def suspend(tenant: str, *, cancel_running: bool) -> str:
    async with _tenants() as tenants:
        return _line(await tenants.suspend(tenant, cancel_running=cancel_running, by=at_terminal()))


async def resume(tenant: str) -> str:
    async with _tenants() as tenants:
        return _line(await tenants.resume(tenant, by=at_terminal()))


async def remove(tenant: str) -> str:
    async with _tenants() as tenants:
        return _line(await tenants.remove(tenant, by=at_terminal()))


@dataclass(frozen=True, slots=True)
class _Desk:
    """What a command works with."""

    tenants: Tenants
    plans: Named
    flags: Named
    terms: TermsCopy
    limits: Limits


@asynccontextmanager
async def _tenants() -> AsyncIterator[Tenants]:
    async with _desk() as desk:
        yield desk.tenants


@asynccontextmanager
async def _desk() -> AsyncIterator[_Desk]:
    settings = load()
    configure(level="error", form="text")
    redis = redis_client(settings)
    try:
        async with opened(settings.sweep_login, settings.database_timeout) as engine:
            store = TermsStore(engine)
            terms = TermsCopy(store)
            await terms.read()
            plans = Named("plan", DocumentStore(engine, PLANS), redis, terms)
            flags = Named("flag", DocumentStore(engine, FLAGS), redis, terms)
            yield _Desk(Tenants(store, redis, terms), plans, flags, terms, limits_of(settings, terms))
    finally:
        await redis.aclose()


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _line(record: TenantRecord) -> str:
    times = {"suspended": record.suspended_at, "removal asked": record.removal_requested_at}
    parts = [
        record.id,
        record.standing,
        *([f"plan {record.plan}"] if record.plan else []),
        f"created {record.created_at:%Y-%m-%d %H:%M}",
        *(f"{name} {at:%Y-%m-%d %H:%M}" for name, at in times.items() if at),
        *(["running ones are cancelled"] if record.cancel_running else []),
    ]
    return "  ".join(parts)
