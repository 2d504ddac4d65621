"""Who asks, and what it may do. The table of it is in docs/access.md."""

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple, Self

from runstream.domain.errors import Forbidden, InvalidField, MissingScope, NotFound, TenantRequired, UserRequired

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_USER_MAX = 128


class Kind(StrEnum):
    """An operator runs the service; a server is a tenant's own backend; a user is a person of a tenant."""

    OPERATOR = "operator"
    SERVER = "server"
    USER = "user"


class Scope(StrEnum):
    RUNS_WRITE = "runs:write"
    RUNS_READ = "runs:read"
    USAGE_READ = "usage:read"
    ADMIN = "admin"


class RunAct(StrEnum):
    """What can be done to a run by who is restricted to it."""

    READ = "read"
    CANCEL = "cancel"


class Owner(NamedTuple):
    """Whose runs: all of a tenant's, or one user's of it."""

    tenant: str
    user: str | None


@dataclass(frozen=True, slots=True)
class OneRun:
    run_id: str
    may: frozenset[RunAct]


@dataclass(frozen=True, slots=True)
class Principal:
    """`credential` is the id of the key or the token that it came with, and `until` when that ends, in Unix time, where
    it does: no secret.

    An operator is of no tenant but the one that a request names. It and a server may act for a user, and may then do no
    more than that user; the `user` of a server is the one whose runs it makes while it acts for nobody. With
    `only`, scopes mean nothing: it is that run, and what may be done to it.
    """

    credential: str
    kind: Kind
    tenant: str | None
    user: str | None
    scopes: frozenset[Scope]
    acts_for: str | None = None
    only: OneRun | None = None
    until: float | None = None

    @property
    def owner(self) -> Owner:
        """Whose runs it sees and touches: what it asks for is looked for among these alone. Raises TenantRequired."""
        if self.tenant is None:
            raise TenantRequired(param="Runstream-Tenant")
        return Owner(self.tenant, self.user if self.kind is Kind.USER else self.acts_for)

    @property
    def maker(self) -> tuple[str, str]:
        """The tenant and the user that a run which it makes belongs to. Raises TenantRequired, UserRequired."""
        tenant, user = self.owner.tenant, self.spends_as
        if user is None:
            raise UserRequired(param="Runstream-User")
        return tenant, user

    @property
    def spends_as(self) -> str | None:
        """The user whose limits hold for what it makes."""
        return self.acts_for or self.user

    def check(self, scope: Scope, act: RunAct | None = None, run_id: str | None = None) -> None:
        """Raises MissingScope; and where it is restricted to a run, Forbidden and NotFound.

        `act` is what is done to the run `run_id` here, if that is any of what a restriction can allow.
        """
        if self.only is None:
            if scope not in self.scopes:
                raise MissingScope(f"This takes the scope '{scope}', which your key does not have.", param=scope)
        elif act not in self.only.may:
            raise Forbidden
        elif run_id != self.only.run_id:
            raise NotFound("There is no such run.")

    def naming(self, tenant: str | None, user: str | None) -> Self:
        """Itself, for the tenant and the user that a request names. Raises Forbidden, InvalidField."""
        if tenant is not None and tenant != self.tenant:
            if self.kind is not Kind.OPERATOR:
                raise Forbidden("Only an operator may name another tenant.", param="Runstream-Tenant")
            self = replace(self, tenant=tenant_name(tenant))  # noqa: PLW0642 - what follows is about the one named
        if user is not None and not (self.kind is Kind.USER and user == self.user):
            if self.kind is Kind.USER or self.only:
                raise Forbidden("Only a server or an operator may act for a user.", param="Runstream-User")
            return replace(self, acts_for=user_name(user), scopes=self.scopes - {Scope.ADMIN})
        return self


def is_name(text: str) -> bool:
    """Whether a tenant, or what operators name, can be called so."""
    return _NAME.fullmatch(text) is not None


def tenant_name(text: str) -> str:
    """Raises InvalidField."""
    if not is_name(text):
        raise InvalidField("A tenant's name is 1 to 64 letters, digits, '_', '.' or '-'.", param="tenant")
    return text


def user_name(text: str) -> str:
    """Raises InvalidField."""
    if not 0 < len(text) <= _USER_MAX or not text.isprintable():
        raise InvalidField(f"A user's name is 1 to {_USER_MAX} printable characters.", param="user")
    return text
