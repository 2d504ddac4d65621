"""Who asks, for whom, and whether it may: what a route says of that is the type of its parameter `asking`."""

import re
from typing import Annotated
from urllib.parse import unquote

from fastapi import Request, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from structlog.contextvars import bind_contextvars

from runstream.api.services import Services
from runstream.domain.errors import Forbidden, InvalidField, NotFound, Unauthenticated
from runstream.domain.principal import Kind, Principal, RunAct, Scope

_TENANT, _USER = "runstream-tenant", "runstream-user"
_ESCAPED = re.compile(r"(?:[!-$&-~]|%[0-9A-Fa-f]{2})+")
_MODEL = HTTPBearer(
    description=(
        "An API key, `rs_...`; a JWT of an identity provider that is trusted here; or a run's token, `rt_...`, for "
        "what it allows. A server acts for one of its users with the header `Runstream-User`, an operator names the "
        "tenant with `Runstream-Tenant`; what is not visible ASCII is percent-encoded UTF-8 there."
    )
)


class _May(SecurityBase):
    """Lets those ask who have the scope, or are restricted to the run of the address and may do `act` to it.

    With `operators`, those of them alone who run the service.

    Raises Unauthenticated, Forbidden, NotFound, InvalidField.
    """

    def __init__(self, scope: Scope, act: RunAct | None = None, *, operators: bool = False) -> None:
        self.model = _MODEL
        self.scheme_name = "HTTPBearer"
        self.scope = scope
        self.act = act
        self.operators = operators

    async def __call__(self, request: Request) -> Principal:
        services: Services = request.app.state.services
        headers = request.headers
        kind, _, credential = headers.get("authorization", "").partition(" ")
        if not credential or kind.lower() != "bearer":
            raise Unauthenticated
        principal = await services.authenticate(credential, (request.scope.get("client") or ("",))[0])
        tenant, user = headers.get(_TENANT), headers.get(_USER)
        if tenant is not None or user is not None:
            principal = principal.naming(tenant, _decoded(user))
            if principal.kind is Kind.OPERATOR and tenant and not await services.keys.has_tenant(tenant):
                raise NotFound("There is no such tenant.", param="Runstream-Tenant")
        principal.check(self.scope, self.act, request.path_params.get("run_id"))
        if self.operators and principal.kind is not Kind.OPERATOR:
            raise Forbidden("This is for who runs the service.")
        bind_contextvars(tenant=principal.tenant)
        return principal


Writing = Annotated[Principal, Security(_May(Scope.RUNS_WRITE))]
Cancelling = Annotated[Principal, Security(_May(Scope.RUNS_WRITE, RunAct.CANCEL))]
Listing = Annotated[Principal, Security(_May(Scope.RUNS_READ))]
Reading = Annotated[Principal, Security(_May(Scope.RUNS_READ, RunAct.READ))]
Spending = Annotated[Principal, Security(_May(Scope.USAGE_READ))]
Administering = Annotated[Principal, Security(_May(Scope.ADMIN))]
Operating = Annotated[Principal, Security(_May(Scope.ADMIN, operators=True))]


def _decoded(user: str | None) -> str | None:
    """A header's value is ASCII, and a user's name any text."""
    if user is None:
        return None
    if not _ESCAPED.fullmatch(user):
        raise InvalidField("Write a user's name as percent-encoded UTF-8.", param="Runstream-User")
    try:
        return unquote(user, errors="strict")
    except UnicodeDecodeError:
        raise InvalidField("This is no percent-encoded UTF-8.", param="Runstream-User") from None
