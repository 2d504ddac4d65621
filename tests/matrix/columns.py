"""Who asks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import jwt

from matrix.things import OF_OPERATORS, Thing
from runstream.access.keys import Keys
from runstream.access.run_tokens import Access, RunTokens
from runstream.access.secrets import new_key
from runstream.domain.ids import new_id
from runstream.domain.principal import Kind, OneRun, Owner, Principal, RunAct, Scope

ALL = frozenset(Scope)
OF_USERS = ALL - {Scope.ADMIN}
ISSUER, AUDIENCE, SECRET = "https://login.example.com/", "runstream", "a secret of more than thirty-two bytes"
TRUSTED = {
    "issuer": ISSUER,
    "audience": AUDIENCE,
    "secret": SECRET,
    "tenant_claim": "tenant",
    "scopes_claim": "scope",
}
"""The application's own identity provider."""


@dataclass(frozen=True)
class Column:
    """Of the tenant, or of one user of it, and makes runs of the user `maker`, if of any.

    An `operator` sees all tenants, unless it names one. `refused` is what it is answered wherever a key is asked for;
    it `lacks` the scope, if it is for that; with `only`, it has none, but that run.
    """

    name: str
    headers: dict[str, str]
    tenant: str | None = None
    user: str | None = None
    scopes: frozenset[Scope] = frozenset()
    maker: str | None = None
    refused: int | None = None
    lacks: bool = False
    operator: bool = False
    only: OneRun | None = None

    def sees(self, thing: Thing) -> bool:
        if self.only is not None and self.only.run_id != thing.id:
            return False
        if thing.kind in OF_OPERATORS or (thing.kind == "tenant" and self.tenant is None):
            return self.operator
        return thing.tenant == self.tenant and (self.user is None or self.user == thing.user)


async def columns(keys: Keys, scope: Scope | None) -> list[Column]:
    """Of every kind one who may, and one who may do everything but what takes the scope.

    Those of `acme` are its user `ada`, and its server.
    """

    async def key(kind: Kind, scopes: frozenset[Scope] | None = None) -> str:
        tenant = None if kind is Kind.OPERATOR else "acme"
        user = {Kind.USER: "ada", Kind.SERVER: "server"}.get(kind)
        return (await keys.create(kind=kind, tenant=tenant, user=user, scopes=scopes)).key

    user, server, operator = await key(Kind.USER), await key(Kind.SERVER, ALL), await key(Kind.OPERATOR, ALL)
    nameless = (await keys.create(kind=Kind.SERVER, tenant="acme", user=None, scopes=ALL)).key
    acme, globex = {"Runstream-Tenant": "acme"}, {"Runstream-Tenant": "globex"}
    ada, bob = {"Runstream-User": "ada"}, {"Runstream-User": "bob"}
    lacking = [
        Column(
            f"{kind} without the scope",
            {**_bearing(await key(kind, (OF_USERS if kind is Kind.USER else ALL) - {scope})), **headers},
            refused=403,
            lacks=True,
        )
        for kind, headers in ((Kind.USER, {}), (Kind.SERVER, {}), (Kind.OPERATOR, acme))
        if scope is not None
    ]
    if scope is not None:
        lacking.append(Column("JWT without the scope", _bearing(_jwt(OF_USERS - {scope})), refused=403, lacks=True))
    return [
        Column("nobody", {}, refused=401),
        Column("unknown key", _bearing(new_key()), refused=401),
        Column("revoked key", _bearing(await _revoked(keys)), refused=401),
        Column("expired key", _bearing(await _expired(keys)), refused=401),
        Column("expired JWT", _bearing(_jwt(exp=1)), refused=401),
        *lacking,
        Column("JWT that claims everything", _bearing(_jwt(ALL)), "acme", "ada", OF_USERS, "ada"),
        Column("JWT naming another", _bearing(_jwt()) | bob, refused=403),
        Column("user", _bearing(user), "acme", "ada", OF_USERS, "ada"),
        Column("user naming itself", _bearing(user) | acme | ada, "acme", "ada", OF_USERS, "ada"),
        Column("user naming another", _bearing(user) | bob, refused=403),
        Column("user naming another tenant", _bearing(user) | globex, refused=403),
        Column("server", _bearing(server), "acme", None, ALL, "server"),
        Column("server without a user", _bearing(nameless), "acme", None, ALL),
        Column("server for a user", _bearing(server) | ada, "acme", "ada", OF_USERS, "ada"),
        Column("server naming another tenant", _bearing(server) | globex, refused=403),
        Column("operator", _bearing(operator), None, None, ALL, operator=True),
        Column("operator for a tenant", _bearing(operator) | acme, "acme", None, ALL, operator=True),
        Column("operator for its user", _bearing(operator) | acme | ada, "acme", "ada", OF_USERS, "ada"),
        Column("operator for another's user", _bearing(operator) | globex | ada, "globex", "ada", OF_USERS, "ada"),
        Column("operator naming no tenant that is there", _bearing(operator) | {"Runstream-Tenant": "x"}, refused=404),
    ]


async def of_tokens(tokens: RunTokens, thing: Thing | None) -> list[Column]:
    """For what is asked for, and for another run: of a user's of `acme`, who may not own it."""
    asked, other = thing.id if thing else new_id("run"), new_id("run")
    asking = Principal("jwt_1", Kind.USER, "acme", "ada", ALL)

    async def column(name: str, run_id: str, access: Access, *may: RunAct) -> Column:
        token = (await tokens.mint(asking, run_id, Owner("acme", "ada"), access, 60)).token
        return Column(name, _bearing(token), "acme", "ada", only=OneRun(run_id, frozenset(may)))

    return [
        await column("token to read it", asked, Access.READ, RunAct.READ),
        await column("token to read and cancel it", asked, Access.READ_AND_CANCEL, RunAct.READ, RunAct.CANCEL),
        await column("token of another run", other, Access.READ_AND_CANCEL, RunAct.READ, RunAct.CANCEL),
    ]


def _jwt(scopes: frozenset[Scope] = OF_USERS, **changed: Any) -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "tenant": "acme", "exp": int(time.time()) + 3600}
    claims |= {"scope": " ".join(scopes), **changed}
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, SECRET)


def _bearing(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def _revoked(keys: Keys) -> str:
    record, key = await keys.create(kind=Kind.SERVER, tenant="acme", user=None)
    await keys.revoke("acme", record.id)
    return key


async def _expired(keys: Keys) -> str:
    record, key = await keys.create(kind=Kind.SERVER, tenant="acme", user=None)
    await keys.rotate("acme", record.id, overlap=timedelta())
    return key
