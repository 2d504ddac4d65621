"""Who acts, as the audit log has it."""

from typing import Any

from fastapi import Request
from structlog.contextvars import get_contextvars

from runstream.api.services import Services
from runstream.domain.audit import Action, Actor, ActorKind, bounded
from runstream.domain.principal import Kind, Principal


def acting(asking: Principal, request: Request) -> Actor:
    headers = request.headers
    return bounded(
        ActorKind(asking.kind),
        asking.credential,
        get_contextvars()["request_id"],
        user=asking.acts_for or asking.user,
        address=(request.scope.get("client") or (None,))[0],
        user_agent=headers.get("user-agent"),
    )


def acting_on_another_s(asking: Principal, request: Request) -> Actor | None:
    """None for a user, who sees no runs but their own, and for a server in the name of one."""
    if asking.kind is not Kind.OPERATOR and asking.owner.user is not None:
        return None
    return acting(asking, request)


async def note_operator(
    services: Services, asking: Principal, request: Request, action: Action, target: str | None, **details: Any
) -> None:
    """Note what an operator is about to be shown of a tenant, or to have done; for anybody else, do nothing.

    Raises Unavailable: then it must not come to that.
    """
    if asking.kind is Kind.OPERATOR:
        entry = acting(asking, request).entry(action, tenant=asking.owner.tenant, target=target, **details)
        await services.audit.append(entry)


async def note(services: Services, asking: Principal, request: Request, action: Action, target: str) -> None:
    """Note what anybody is about to be shown, or has had done. Raises Unavailable."""
    await services.audit.append(acting(asking, request).entry(action, tenant=asking.owner.tenant, target=target))
