"""Everything that can be configured, by RUNSTREAM_* variables. Read in the composition roots alone."""

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from runstream.domain.errors import ConfigurationError


class ProviderSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: str
    base_url: str
    api_keys: list[SecretStr] = []


class Settings(BaseSettings):
    """Times are in seconds, sizes in bytes, unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="RUNSTREAM_", env_file=".env", extra="ignore", frozen=True)

    database_url: SecretStr = SecretStr("postgresql://127.0.0.1:5432/runstream")
    database_pool: int = Field(10, ge=1)
    database_timeout: float = Field(10, gt=0)
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    redis_timeout: float = Field(2, gt=0)

    providers: dict[str, ProviderSettings] = {}
    models: dict[str, list[str]] = {}
    default_model: str | None = None
    connect_timeout: float = Field(10, gt=0)
    first_token_timeout: float = Field(60, gt=0)
    idle_timeout: float = Field(60, gt=0)
    run_timeout: float = Field(900, gt=0)
    max_output_chars: int = Field(2_000_000, ge=1)

    queue: str = Field("default", pattern=r"^[a-z0-9_-]{1,64}$")
    worker_slots: int = Field(500, ge=1)
    worker_grace: float = Field(20, ge=0)
    worker_metrics_port: int = Field(0, ge=0, le=65535)
    max_attempts: int = Field(3, ge=1)
    retry_delays: list[float] = Field([10, 30, 60], min_length=1)
    lease: float = Field(3, gt=0)
    lease_interval: float = Field(1, gt=0)
    sweep_interval: float = Field(0.5, gt=0)

    heartbeat: float = Field(15, gt=0)
    stream_max_age: float = Field(3600, gt=0)
    stream_buffer: int = Field(256 * 1024, ge=1)
    stream_ttl: float = Field(24 * 3600, gt=0)
    stream_ended_ttl: float = Field(60, gt=0)
    max_body: int = Field(1_000_000, ge=1)
    shutdown_grace: float = Field(5, ge=0)

    console: bool = False
    console_key: SecretStr | None = None
    log_format: str = Field("json", pattern="^(json|text)$")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")


def load() -> Settings:
    """Read the environment. Raises ConfigurationError, which names the variable and never its value."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        variable = "_".join(["RUNSTREAM", str(first["loc"][0]).upper()])
        path = ".".join(str(part) for part in first["loc"][1:])
        raise ConfigurationError(f"{variable}{' at ' + path if path else ''}: {first['msg']}") from None
    except ValueError as error:
        raise ConfigurationError(f"{error}; it takes JSON.") from None
