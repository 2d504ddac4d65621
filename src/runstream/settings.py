"""Everything that can be configured, by RUNSTREAM_* variables. Read in the composition roots alone."""

import json
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from runstream.domain.errors import ConfigurationError
from runstream.domain.limits import Scope
from runstream.domain.run import Complexity


def _from_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise PydanticCustomError("json", "It takes JSON, and this is none: {reason}", {"reason": str(error)}) from None


FromJson = BeforeValidator(_from_json)


class ProviderSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: str
    base_url: str
    api_keys: list[SecretStr] = []
    api_keys_file: str | None = None
    background: bool = False
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None


class PriceSettings(NamedTuple):
    """US dollars for a million tokens."""

    input: Annotated[Decimal, Field(ge=0)]
    output: Annotated[Decimal, Field(ge=0)]
    cached: Annotated[Decimal, Field(ge=0)] | None = None


def _as_target(value: Any) -> Any:
    return {"target": value} if isinstance(value, str) else value


class TargetSettings(BaseModel):
    """See gateway.routes.TargetConfig."""

    model_config = ConfigDict(extra="forbid")

    target: str
    price: PriceSettings | None = None
    min_input_tokens: int = Field(0, ge=0)
    max_input_tokens: int | None = Field(None, ge=0)
    complexity: Annotated[frozenset[Complexity], Field(min_length=1)] = frozenset()
    canary: Annotated[Decimal, Field(gt=0, le=1)] | None = None
    concurrent_calls: int | None = Field(None, ge=1)


ModelSettings = dict[str, list[Annotated[TargetSettings, BeforeValidator(_as_target)]]]

Dollars = Annotated[Decimal, Field(ge=0, max_digits=18, decimal_places=10)]


class LimitSettings(BaseModel):
    """What is null, or not there, is not limited; cost is in US dollars."""

    model_config = ConfigDict(extra="forbid")

    requests_per_minute: Annotated[int, Field(ge=0)] | None = None
    concurrent_runs: Annotated[int, Field(ge=0)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=0)] | None = None
    tokens_per_day: Annotated[int, Field(ge=0)] | None = None
    tokens_per_month: Annotated[int, Field(ge=0)] | None = None
    cost_per_minute: Dollars | None = None
    cost_per_day: Dollars | None = None
    cost_per_month: Dollars | None = None


class ScopedLimitSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user: LimitSettings = LimitSettings()
    tenant: LimitSettings = LimitSettings()
    feature: LimitSettings = LimitSettings()

    def bounds(self) -> dict[Scope, dict[str, int | Decimal | None]]:
        """What was said of each scope, and nothing else."""
        return {scope: getattr(self, scope).model_dump(exclude_unset=True) for scope in Scope}


class AllLimitSettings(ScopedLimitSettings):
    """For every tenant, but for what `tenants` say of some, setting by setting."""

    tenants: dict[str, ScopedLimitSettings] = {}


class GuardSettings(BaseModel):
    """`patterns` of one's own by name; `rules` says what is done where a pattern fits, if that is not to flag."""

    model_config = ConfigDict(extra="forbid")

    max_messages: Annotated[int, Field(ge=1)] | None = None
    max_message_chars: Annotated[int, Field(ge=1)] | None = None
    max_input_chars: Annotated[int, Field(ge=1)] | None = None
    normalize: bool = True
    patterns: Annotated[dict[str, Annotated[str, Field(max_length=1000)]], Field(max_length=100)] = {}
    rules: dict[str, Literal["off", "flag", "strip", "refuse"]] = {}


class ModerationSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    base_url: str
    api_keys: list[SecretStr] = []
    model: str = "omni-moderation-latest"
    timeout: Annotated[float, Field(gt=0)] = 5
    input: bool = True
    output: bool = True


class Settings(BaseSettings):
    """Times are in seconds, sizes in bytes, unless the name says otherwise."""

    model_config = SettingsConfigDict(
        env_prefix="RUNSTREAM_", env_file=".env", extra="ignore", frozen=True, enable_decoding=False
    )

    database_url: SecretStr = SecretStr("postgresql://127.0.0.1:5432/runstream")
    database_pool: int = Field(10, ge=1)
    database_timeout: float = Field(10, gt=0)
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    redis_timeout: float = Field(2, gt=0)

    providers: Annotated[dict[str, ProviderSettings], FromJson] = {}
    prices: Annotated[dict[str, PriceSettings], FromJson] = {}
    models: Annotated[ModelSettings, FromJson] = {}
    tenant_models: Annotated[dict[str, ModelSettings], FromJson] = {}
    default_model: str | None = None
    limits: Annotated[AllLimitSettings, FromJson] = AllLimitSettings(user=LimitSettings(requests_per_minute=20))
    guards: Annotated[GuardSettings, FromJson] = GuardSettings()
    moderation: Annotated[ModerationSettings | None, FromJson] = None
    reserved_output_tokens: int = Field(1000, ge=0)
    warn_call_cost: Dollars | None = None
    warn_spend_times: Decimal | None = Field(None, ge=1)
    warn_spend_floor: Dollars = Decimal(1)
    provider_wait: float = Field(30, ge=0)
    connect_timeout: float = Field(10, gt=0)
    first_token_timeout: float = Field(60, gt=0)
    idle_timeout: float = Field(60, gt=0)
    run_timeout: float = Field(900, gt=0)
    max_output_chars: int = Field(2_000_000, ge=1)
    cache_ttl: float = Field(3600, ge=1, le=10 * 365 * 24 * 3600)
    cache_min_tokens: int = Field(50, ge=0)

    queue: str = Field("default", pattern=r"^[a-z0-9_-]{1,64}$")
    max_queued: int = Field(10_000, ge=1)
    max_queued_per_tenant: int = Field(2_000, ge=1)
    worker_slots: int = Field(500, ge=1)
    worker_grace: float = Field(20, ge=0)
    worker_metrics_port: int = Field(0, ge=0, le=65535)
    max_attempts: int = Field(3, ge=1)
    retry_delays: Annotated[list[float], FromJson] = Field([10, 30, 60], min_length=1)
    lease: float = Field(3, gt=0)
    lease_interval: float = Field(1, gt=0)
    sweep_interval: float = Field(0.5, gt=0)

    heartbeat: float = Field(15, gt=0)
    stream_max_age: float = Field(3600, gt=0)
    stream_buffer: int = Field(256 * 1024, ge=1)
    reader_timeout: float = Field(60, gt=0)
    stream_ttl: float = Field(24 * 3600, gt=0)
    stream_ended_ttl: float = Field(60, gt=0)
    max_body: int = Field(1_000_000, ge=1)
    shutdown_grace: float = Field(5, ge=0)

    console: bool = False
    console_key: SecretStr | None = None
    log_format: str = Field("json", pattern="^(json|text)$")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    crash_at: str | None = None


def load() -> Settings:
    """Read the environment. Raises ConfigurationError, which names the variable and never its value."""
    settings, refused = survey()
    if refused:
        raise ConfigurationError(refused[0])
    return settings


def survey() -> tuple[Settings, list[str]]:
    """Read the environment as far as it can be read; a sentence on each variable that cannot, and counts as not set."""
    try:
        return Settings(), []
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
    unset = {str(each["loc"][0]) for each in errors}
    defaults = {name: Settings.model_fields[name].get_default() for name in unset}
    return Settings(**defaults), [_sentence(each) for each in errors]


def _sentence(error: ErrorDetails) -> str:
    variable, *path = error["loc"]
    place = f" at {'.'.join(str(part) for part in path)}" if path else ""
    return f"RUNSTREAM_{str(variable).upper()}{place}: {error['msg']}"
