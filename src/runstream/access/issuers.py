"""Who vouches for people besides us, and whom its tokens stand for."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runstream.access.key_sets import KeySource
from runstream.domain.errors import InvalidClaims, InvalidField
from runstream.domain.principal import Kind, Principal, Scope, tenant_name, user_name


@dataclass(frozen=True, slots=True)
class Issuer:
    """`audience` are the names that we go by there: a token is for one of them. `leeway`, in seconds, is what clocks
    may differ by.

    Claims are named by their path: `org.id` is within `org`, and a name with a `/` is no path. The tenant is `tenant`,
    or in `tenant_claim`. Without a `scopes_claim`, all have `scopes`; with it, what each of its words stands for in
    `scope_map`, or, where that is empty, the scopes that the words name.
    """

    name: str
    audience: Sequence[str]
    keys: KeySource
    leeway: float
    kind: Kind
    tenant: str | None
    tenant_claim: str
    user_claim: str
    scopes: Collection[Scope]
    scopes_claim: str | None = None
    scope_map: Mapping[str, Collection[Scope]] = field(default_factory=dict)

    def principal(self, claims: Mapping[str, Any], credential: str, until: float) -> Principal:
        """Whom a token with these claims, which was verified, stands for. Raises InvalidClaims."""
        try:
            tenant = self.tenant or tenant_name(_text(claims, self.tenant_claim))
            user = user_name(_text(claims, self.user_claim)) if self.kind is Kind.USER else None
        except InvalidField as error:
            raise InvalidClaims(f"In the token: {error.message}", param=error.param) from None
        return Principal(credential, self.kind, tenant, user, self._scopes(claims), until=until)

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[Scope]:
        if self.scopes_claim is None:
            return frozenset(self.scopes)
        given = _claim(claims, self.scopes_claim)
        words = given.split() if isinstance(given, str) else given
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise _unusable(self.scopes_claim, "words, or a list of them")
        known = self.scope_map or {scope: (scope,) for scope in Scope}
        granted = frozenset(scope for word in words for scope in known.get(word, ()))
        return granted - {Scope.ADMIN} if self.kind is Kind.USER else granted


def _text(claims: Mapping[str, Any], path: str) -> str:
    value = _claim(claims, path)
    if not isinstance(value, str):
        raise _unusable(path, "text")
    return value


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    value: Any = claims
    for name in (path,) if "/" in path else path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _unusable(path: str, wanted: str) -> InvalidClaims:
    return InvalidClaims(f"The token's claim '{path}' is to be {wanted}.", param=path)
