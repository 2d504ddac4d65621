"""The objects that settings are made of."""

from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from runstream.domain.limits import Scope
from runstream.domain.principal import Kind
from runstream.domain.principal import Scope as KeyScope
from runstream.domain.retention import Content
from runstream.domain.run import Complexity
from runstream.gateway.bounds import Bound, LimitBounds
from runstream.settings.values import (
    Address,
    Count,
    Days,
    File,
    Key,
    Name,
    Part,
    Price,
    Seconds,
    SharedSecret,
    Tenant,
)


class ProviderSettings(Part):
    kind: str
    base_url: str
    api_keys: list[Key] = Field([])
    api_keys_file: File | None = None
    background: bool = False
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None


class PriceSettings(NamedTuple):
    """US dollars for a million tokens."""

    input: Price
    output: Price
    cached: Price | None = None


def _as_target(value: Any) -> Any:
    return {"target": value} if isinstance(value, str) else value


class TargetSettings(Part):
    """See gateway.routes.TargetConfig."""

    target: Name
    price: PriceSettings | None = None
    min_input_tokens: Bound = 0
    max_input_tokens: Bound | None = None
    complexity: Annotated[frozenset[Complexity], Field(min_length=1)] = frozenset()
    canary: Annotated[Decimal, Field(gt=0, le=1)] | None = None
    concurrent_calls: Count | None = None


ModelSettings = dict[Name, list[Annotated[TargetSettings, BeforeValidator(_as_target)]]]


class LimitSettings(LimitBounds, Part):
    """What is null, or not there, is not limited; cost is in US dollars."""


class ScopedLimitSettings(Part):
    user: LimitSettings = LimitSettings()
    tenant: LimitSettings = LimitSettings()
    feature: LimitSettings = LimitSettings()

    def bounds(self) -> dict[Scope, dict[str, int | Decimal | None]]:
        """What was said of each scope, and nothing else."""
        return {scope: getattr(self, scope).model_dump(exclude_unset=True) for scope in Scope}


class AllLimitSettings(ScopedLimitSettings):
    """For every tenant, but for what `tenants` say of some, setting by setting."""

    tenants: dict[Tenant, ScopedLimitSettings] = Field({})


class RetentionSettings(Part):
    """Days after a run's end; what is null, or not there, is kept for good."""

    input: Days | None = None
    output: Days | None = None
    transcript: Days | None = None

    def ages(self) -> dict[Content, timedelta]:
        """Of what is not kept for good."""
        return {kind: timedelta(days=days) for kind in Content if (days := getattr(self, kind)) is not None}


class AllRetentionSettings(RetentionSettings):
    """For every tenant, but for what `tenants` say of some, setting by setting."""

    tenants: dict[Tenant, RetentionSettings] = Field({})

    def of_tenants(self) -> dict[str, dict[Content, timedelta]]:
        common = self.model_dump(include=set(RetentionSettings.model_fields))
        return {
            tenant: RetentionSettings(**{**common, **own.model_dump(exclude_unset=True)}).ages()
            for tenant, own in self.tenants.items()
        }


class GuardSettings(Part):
    """`patterns` of one's own by name; `rules` says what is done where a pattern fits, if that is not to flag."""

    max_messages: Count | None = None
    max_message_chars: Count | None = None
    max_input_chars: Count | None = None
    normalize: bool = True
    patterns: dict[str, Annotated[str, Field(max_length=1000)]] = Field({}, max_length=100)
    rules: dict[str, Literal["off", "flag", "strip", "refuse"]] = Field({})


class ModerationSettings(Part):
    base_url: str
    api_keys: list[Key] = Field([])
    model: Name = "omni-moderation-latest"
    timeout: Seconds = 5
    input: bool = True
    output: bool = True


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


OneOrMore = BeforeValidator(_as_list)


class JwtSettings(Part):
    """See access.issuers.Issuer. Its keys are at `jwks_url`, or it shares a `secret`."""

    issuer: Name
    audience: Annotated[list[Name], Field(min_length=1), OneOrMore]
    jwks_url: Address | None = None
    secret: SharedSecret | None = None
    algorithms: Annotated[list[Literal["RS256", "PS256", "ES256", "EdDSA"]], Field(min_length=1)] | None = None
    kind: Literal[Kind.USER, Kind.SERVER] = Kind.USER
    tenant: Tenant | None = None
    tenant_claim: Name | None = None
    user_claim: Name = "sub"
    scopes: frozenset[KeyScope] = frozenset({KeyScope.RUNS_READ, KeyScope.RUNS_WRITE})
    scopes_claim: Name | None = None
    scope_map: dict[str, Annotated[frozenset[KeyScope], OneOrMore]] = Field({})
    leeway: Annotated[float, Field(ge=0, le=300, allow_inf_nan=False)] = 30

    @model_validator(mode="after")
    def _whole(self) -> Self:
        mapped = self.scopes.union(*self.scope_map.values())
        if (self.jwks_url is None) == (self.secret is None):
            raise PydanticCustomError("keys", "It takes either a jwks_url or a secret")
        if self.algorithms and self.secret:
            raise PydanticCustomError("algorithms", "A secret is for HS256 alone: take the algorithms away")
        if (self.tenant is None) == (self.tenant_claim is None):
            raise PydanticCustomError("tenant", "It takes either a tenant or a tenant_claim")
        if self.scope_map and self.scopes_claim is None:
            raise PydanticCustomError("scopes", "A scope_map is for the words of a scopes_claim: name that")
        if self.kind is Kind.USER and KeyScope.ADMIN in mapped:
            raise PydanticCustomError("scopes", "A user's token cannot have the scope 'admin'")
        return self
