"""Who asks, and what it may see."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from random import Random

import jwt
from tests.stack import Stack

from runstream.access.secrets import KEY_PREFIX, new_key
from runstream.domain.principal import Kind, Scope

TENANTS = ("acme", "globex", "initech")
USERS = ("ada", "bob")
MARK = re.compile(r"mark-([a-z]+)-([a-z]*)\.")


TRUSTED = {
    "issuer": "https://login.example.com/",
    "audience": "runstream",
    "secret": "a secret of more than thirty-two bytes",
    "tenant_claim": "tenant",
}
"""An application's identity provider."""


@dataclass(frozen=True)
class Sees:
    """What is of the tenant, and of the user where one is named; nothing at all where no tenant is."""

    tenant: str | None = None
    user: str | None = None

    def owner(self, tenant: str, user: str | None) -> bool:
        return tenant == self.tenant and self.user in {None, user}


@dataclass(frozen=True)
class Key:
    """A server's `user` is whose runs it makes where it names nobody."""

    token: str
    kind: Kind
    tenant: str | None
    user: str | None


@dataclass(frozen=True)
class Asking:
    """A credential, and the headers that say for whom. `sees` is None where that is not known.

    `mark` is in all that they write.
    """

    token: str
    headers: list[tuple[str, str]]
    sees: Sees | None
    mark: str = "unmarked"


class People:
    """Holds keys of all kinds, and gets new ones for those that were revoked; and tokens of all users."""

    def __init__(self, stack: Stack, random: Random) -> None:
        self._stack = stack
        self._random = random
        self._keys: list[Key] = []
        self._dead: list[str] = []
        self.refill([])
        self._keys += [Key(_jwt(tenant, user), Kind.USER, tenant, user) for tenant in TENANTS for user in USERS]

    def refill(self, dead: list[str]) -> None:
        """`dead` are tokens that hold no more. Blocks."""
        self._keys = [key for key in self._keys if key.token not in dead]
        self._dead = [*self._dead, *dead][-20:]
        there = {(key.kind, key.tenant, key.user) for key in self._keys if key.token.startswith(KEY_PREFIX)}
        wanted: list[tuple[Kind, str | None, str | None]] = [(Kind.OPERATOR, None, None)]
        for tenant in TENANTS:
            wanted += [(Kind.SERVER, tenant, None), *((Kind.USER, tenant, user) for user in USERS)]
        for kind, tenant, user in wanted:
            if (kind, tenant, user) not in there:
                scopes = list(Scope) if kind is not Kind.USER else None
                self._keys.append(Key(self._stack.create_key(tenant, user, kind, scopes), kind, tenant, user))

    def add(self, key: Key) -> None:
        """One, or a run's token, that was made by a request; of late ones only some are kept."""
        self._keys.append(key)
        if len(self._keys) > 100:
            del self._keys[20]

    def tokens(self) -> list[str]:
        return [key.token for key in self._keys]

    def asking(self) -> Asking:
        random = self._random
        if random.random() < 0.06:
            if self._dead and random.random() < 0.5:
                dead = random.choice(self._dead)
                return Asking(dead, [("Authorization", f"Bearer {dead}")], None)
            return Asking(*self._stranger(), Sees())
        key = random.choice([*self._keys, *(key for key in self._keys if key.kind is not Kind.USER)])
        headers = [("Authorization", f"Bearer {key.token}")]
        tenant, user = key.tenant, key.user if key.kind is Kind.USER else None
        if key.kind is Kind.OPERATOR and random.random() < 0.95:
            tenant = random.choice(TENANTS)
            headers.append(("Runstream-Tenant", tenant))
        if key.kind is not Kind.USER and random.random() < 0.4:
            user = random.choice(USERS)
            headers.append(("Runstream-User", user))
        if random.random() < 0.02:  # not its own: all the less is to be seen
            name = random.choice(["Runstream-Tenant", "Runstream-User"])
            other = random.choice([*TENANTS, *USERS, "nobody", "", "%ff", "a" * 300])
            return Asking(key.token, [*headers, (name, other)], None)
        if tenant is None:
            return Asking(key.token, headers, Sees())
        return Asking(key.token, headers, Sees(tenant, user), f"mark-{tenant}-{user or key.user or ''}.")

    def _stranger(self) -> tuple[str, list[tuple[str, str]]]:
        token = self._random.choice(self._keys).token
        bad = self._random.choice(
            [
                *(new_key(), token[:-1], token + "A", token.upper(), "rs_", "", "é", "a" * 5000),
                *(
                    "eyJhbGciOiJub25lIn0.e30.",
                    "rt_eyJhbGciOiJub25lIn0.e30.",
                    f"rt_{token}",
                    token.removeprefix("rt_")[1:],
                ),
                _jwt("nobody", "ada"),
            ]
        )
        form = self._random.choice(["Bearer {}", "bearer  {}", "Basic {}", "{}", "Bearer {} {}", "Bearer\t{}"])
        return bad, self._random.choice([[], [("Authorization", form.replace("{}", bad))]])


def _jwt(tenant: str, user: str) -> str:
    claims = {"iss": TRUSTED["issuer"], "aud": TRUSTED["audience"], "exp": int(time.time()) + 24 * 3600}
    return jwt.encode({**claims, "sub": user, "tenant": tenant}, TRUSTED["secret"])
