"""Everything that can be configured, by RUNSTREAM_* variables. Read in the composition roots alone."""

from collections.abc import Iterator
from decimal import Decimal
from difflib import get_close_matches
from typing import Annotated

from pydantic import Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict

from runstream.domain.errors import ConfigurationError
from runstream.gateway.bounds import Dollars
from runstream.settings.parts import (
    AllLimitSettings,
    AllRetentionSettings,
    GuardSettings,
    JwtSettings,
    LimitSettings,
    ModelSettings,
    ModerationSettings,
    OneOrMore,
    PriceSettings,
    ProviderSettings,
    ScopedLimitSettings,
    TargetSettings,
)
from runstream.settings.values import (
    File,
    FromJson,
    MasterKey,
    Name,
    Network,
    Origin,
    Provider,
    Seconds,
    SecondsOrNone,
    Tenant,
)

__all__ = [
    "AllLimitSettings",
    "GuardSettings",
    "JwtSettings",
    "LimitSettings",
    "ModelSettings",
    "ModerationSettings",
    "ScopedLimitSettings",
    "Settings",
    "TargetSettings",
    "load",
    "survey",
]

_PREFIX = "RUNSTREAM_"
_FILE = ".env"
_ALIKE = 0.85
"""Of difflib's ratio: RUNSTREAM_LIMIT is like RUNSTREAM_LIMITS, and RUNSTREAM_REDIS_PORT like none."""
_LONGEST_PART = 64
"""Characters of a name that a sentence shows."""
_SAID = {
    "dict_type": 'It takes a JSON object: {"...": ...}',
    "model_type": 'It takes a JSON object: {"...": ...}',
    "model_attributes_type": 'It takes a JSON object: {"...": ...}',
    "list_type": "It takes a JSON list: [...]",
    "frozen_set_type": "It takes a JSON list: [...]",
}
"""In an operator's words, where pydantic speaks to a programmer."""


class Settings(BaseSettings):
    """Times are in seconds, sizes in bytes, unless the name says otherwise."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_file=_FILE,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        enable_decoding=False,
    )

    database_url: SecretStr = SecretStr("postgresql://127.0.0.1:5432/runstream")
    sweep_database_url: SecretStr | None = None
    database_pool: int = Field(10, ge=1, le=10_000)
    database_timeout: Seconds = 10
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    redis_timeout: Seconds = 2
    encryption_keys: Annotated[list[MasterKey], FromJson] = []
    encryption_keys_file: File | None = None

    providers: Annotated[dict[Provider, ProviderSettings], FromJson] = {}
    prices: Annotated[dict[Name, PriceSettings], FromJson] = {}
    models: Annotated[ModelSettings, FromJson] = {}
    tenant_models: Annotated[dict[Tenant, ModelSettings], FromJson] = {}
    default_model: str | None = None
    limits: Annotated[AllLimitSettings, FromJson] = AllLimitSettings(user=LimitSettings(requests_per_minute=20))
    guards: Annotated[GuardSettings, FromJson] = GuardSettings()
    moderation: Annotated[ModerationSettings | None, FromJson] = None
    reserved_output_tokens: int = Field(1000, ge=0, le=10**9)
    warn_call_cost: Dollars | None = None
    warn_spend_times: Decimal | None = Field(None, ge=1, le=1_000_000)
    warn_spend_floor: Dollars = Decimal(1)
    provider_wait: SecondsOrNone = 30
    connect_timeout: Seconds = 10
    first_token_timeout: Seconds = 60
    idle_timeout: Seconds = 60
    run_timeout: Seconds = 900
    max_output_chars: int = Field(2_000_000, ge=1, le=10**8)
    cache_ttl: Seconds = Field(3600, ge=1)
    cache_min_tokens: int = Field(50, ge=0, le=10**9)
    retention: Annotated[AllRetentionSettings, FromJson] = AllRetentionSettings()

    queue: str = Field("default", pattern=r"^[a-z0-9_-]{1,64}$")
    max_queued: int = Field(10_000, ge=1, le=10**9)
    max_queued_per_tenant: int = Field(2_000, ge=1, le=10**9)
    worker_slots: int = Field(500, ge=1, le=10**6)
    worker_grace: SecondsOrNone = 20
    worker_metrics_port: int = Field(0, ge=0, le=65535)
    max_attempts: int = Field(3, ge=1, le=1000)
    retry_delays: Annotated[list[SecondsOrNone], FromJson] = Field([10, 30, 60], min_length=1)
    lease: Seconds = 3
    lease_interval: Seconds = 1
    sweep_interval: Seconds = 0.5

    heartbeat: Seconds = 15
    stream_max_age: Seconds = 3600
    stream_buffer: int = Field(256 * 1024, ge=1, le=10**9)
    reader_timeout: float = Field(60, ge=0.001, le=2_000_000)
    stream_ttl: Seconds = Field(24 * 3600, ge=0.001)
    stream_ended_ttl: Seconds = Field(60, ge=0.001)
    max_body: int = Field(1_000_000, ge=1, le=10**9)
    max_head: int = Field(32 * 1024, ge=1024, le=10**7)
    request_timeout: Seconds = 60
    max_connections: int = Field(10_000, ge=1, le=10**6)
    cors_origins: Annotated[list[Origin], FromJson] = []
    shutdown_grace: SecondsOrNone = 5
    jwt: Annotated[list[JwtSettings], OneOrMore, FromJson] = []
    failed_auth_per_minute: int = Field(30, ge=0, le=10**9)
    trusted_proxies: Annotated[list[Network], FromJson] = []

    webhook_private: bool = False
    webhook_timeout: Seconds = 15
    webhook_delays: Annotated[list[Seconds], FromJson] = Field([5, 300, 1800, 7200, 18000, 36000, 36000])
    webhook_patience: Seconds = 3 * 24 * 3600
    webhook_kept: Seconds = 30 * 24 * 3600
    webhook_slots: int = Field(100, ge=5, le=10_000)

    console: bool = False
    console_key: SecretStr | None = None
    log_format: str = Field("json", pattern="^(json|text)$")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    crash_at: str | None = None

    @property
    def database_login(self) -> str:
        """The URL for what is bound to its tenants."""
        return self.database_url.get_secret_value()

    @property
    def sweep_login(self) -> str:
        """The URL for what sees all tenants."""
        return (self.sweep_database_url or self.database_url).get_secret_value()


def load() -> Settings:
    """Read the environment. Raises ConfigurationError, which names the variable and never its value."""
    settings, refused = survey()
    if refused:
        raise ConfigurationError(refused[0])
    return settings


def survey() -> tuple[Settings, list[str]]:
    """Read the environment as far as it can be read; a sentence on each variable that cannot, and counts as not set."""
    misnamed = list(_misnamed())
    try:
        return Settings(), misnamed
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
    unset = {str(each["loc"][0]) for each in errors}
    defaults = {name: Settings.model_fields[name].get_default() for name in unset}
    return Settings(**defaults), [*misnamed, *(_sentence(each) for each in errors)]


def _misnamed() -> Iterator[str]:
    """On variables whose names are nearly those of settings, and which would have no effect."""
    known = {name.upper() for name in Settings.model_fields}
    given = {name.upper() for source in (EnvSettingsSource, DotEnvSettingsSource) for name in source(Settings).env_vars}
    for variable in sorted(given):
        name = variable.removeprefix(_PREFIX)
        if name == variable or name in known:
            continue
        if alike := get_close_matches(name, known, n=1, cutoff=_ALIKE):
            yield f"{variable} is no setting, and has no effect: call it {_PREFIX}{alike[0]}, or take it away."


def _sentence(error: ErrorDetails) -> str:
    variable, *path = error["loc"]
    place = f" at {'.'.join(_readable(str(part)) for part in path)}" if path else ""
    return f"{_PREFIX}{str(variable).upper()}{place}: {_SAID.get(error['type'], error['msg'])}"


def _readable(part: str) -> str:
    text = part if len(part) <= _LONGEST_PART else f"{part[:_LONGEST_PART]}..."
    return text if text.isprintable() else repr(text)
