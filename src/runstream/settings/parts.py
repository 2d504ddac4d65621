"""The objects that settings are made of."""

from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from runstream.domain.limits import Scope
from runstream.domain.retention import Content
from runstream.domain.run import Complexity
from runstream.gateway.bounds import Bound, LimitBounds
from runstream.settings.values import Count, Days, File, Key, Name, Part, Price, Seconds, Tenant


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
