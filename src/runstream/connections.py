"""The clients that both composition roots open."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError

from runstream.access.issuers import Issuer
from runstream.access.key_sets import PUBLISHED, PublishedKeys, SharedSecret
from runstream.counters.key_turns import Rate
from runstream.domain.errors import ConfigurationError
from runstream.domain.retention import Retention
from runstream.domain.terms import Terms
from runstream.domain.usage import Rates
from runstream.gateway.guards.limits import InputLimits
from runstream.gateway.limits import Limits
from runstream.gateway.pricing import Prices
from runstream.gateway.routes import Routes, TargetConfig
from runstream.providers.base import ProviderConfig, Timeouts
from runstream.providers.key_file import Unusable, read_keys
from runstream.redis_script import Scripts
from runstream.sealing.master_keys import MasterKeys, decoded
from runstream.settings import JwtSettings, ModelSettings, ModerationSettings, Settings, TargetSettings
from runstream.stream.log import TokenLog

if TYPE_CHECKING:
    from runstream.gateway.guards.guards import Guards
    from runstream.providers.moderations import Moderations


class _ClosedIsLost(AbstractConnection):
    """Raises redis' ConnectionError where uvloop raises RuntimeError: upon writing to a connection that was closed."""

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            raise ConnectionError("The connection is closed.") from error


def redis_client(settings: Settings, *, waiting: bool = False) -> Redis:
    """Every call is bounded by `redis_timeout`; with `waiting`, only connecting is: for who waits for messages.

    Raises ConfigurationError.
    """
    try:
        pool = ConnectionPool.from_url(
            settings.redis_url.get_secret_value(),
            socket_connect_timeout=settings.redis_timeout,
            socket_timeout=None if waiting else settings.redis_timeout,
            socket_keepalive=True,
        )
    except ValueError:
        raise ConfigurationError("RUNSTREAM_REDIS_URL is not a URL such as redis://host:6379/0.") from None
    pool.connection_class = type("Connection", (_ClosedIsLost, pool.connection_class), {})
    return Redis(connection_pool=pool)


def open_log(settings: Settings, waiting: Redis, scripts: Scripts) -> TokenLog:
    """The token log, over a client made with `waiting`."""
    return TokenLog(waiting, scripts, ttl=settings.stream_ttl, ended_ttl=settings.stream_ended_ttl)


def master_keys(settings: Settings) -> MasterKeys | None:
    """None where content is not encrypted. Raises ConfigurationError."""
    given: Sequence[str] = [key.get_secret_value() for key in settings.encryption_keys]
    path = settings.encryption_keys_file
    if path is None:
        return MasterKeys([decoded(key) for key in given]) if given else None
    if given:
        raise ConfigurationError("Set RUNSTREAM_ENCRYPTION_KEYS or RUNSTREAM_ENCRYPTION_KEYS_FILE, not both.")
    try:
        return MasterKeys([decoded(key) for key in read_keys(Path(path))])
    except (Unusable, ValueError) as error:
        raise ConfigurationError(f"RUNSTREAM_ENCRYPTION_KEYS_FILE: {error}.") from None


def provider_configs(settings: Settings) -> Mapping[str, ProviderConfig]:
    return {
        name: ProviderConfig(
            name=name,
            kind=provider.kind,
            base_url=provider.base_url,
            api_keys=tuple(key.get_secret_value() for key in provider.api_keys),
            background=provider.background,
            api_keys_file=provider.api_keys_file,
        )
        for name, provider in settings.providers.items()
    }


def model_routes(settings: Settings) -> Routes:
    """Raises ConfigurationError."""
    tenants = {tenant: _models(models) for tenant, models in settings.tenant_models.items()}
    return Routes(_models(settings.models), settings.providers, tenants)


def _models(given: ModelSettings) -> Mapping[str, Sequence[TargetConfig]]:
    return {name: [_target(target) for target in targets] for name, targets in given.items()}


def _target(given: TargetSettings) -> TargetConfig:
    return TargetConfig(
        given.target,
        price=Rates(*given.price) if given.price else None,
        min_input_tokens=given.min_input_tokens,
        max_input_tokens=given.max_input_tokens,
        complexity=given.complexity,
        canary=given.canary,
        concurrent_calls=given.concurrent_calls,
    )


def key_rates(settings: Settings) -> Mapping[str, Rate]:
    """What each key of a provider may be asked for in a minute, of those providers where that is bounded."""
    rates = {
        name: Rate(provider.requests_per_minute, provider.tokens_per_minute)
        for name, provider in settings.providers.items()
    }
    return {name: rate for name, rate in rates.items() if rate != Rate(None, None)}


def retention(settings: Settings, terms: Callable[[], Terms]) -> Retention:
    """How long each tenant's content is kept."""
    return Retention(settings.retention.ages(), settings.retention.of_tenants(), terms)


def prices(settings: Settings) -> Prices:
    """Loads the list prices, which take memory and time."""
    addresses = {name: provider.base_url for name, provider in settings.providers.items()}
    return Prices(addresses, {name: Rates(*rates) for name, rates in settings.prices.items()})


def limits(settings: Settings, terms: Callable[[], Terms]) -> Limits:
    given = settings.limits
    return Limits(given.bounds(), {tenant: own.bounds() for tenant, own in given.tenants.items()}, terms)


def input_limits(settings: Settings) -> InputLimits:
    given = settings.guards
    return InputLimits(given.max_messages, given.max_message_chars, given.max_input_chars)


def guards(settings: Settings) -> Guards:
    """Raises ConfigurationError. Opens nothing yet, and loads what the rules are searched with."""
    from runstream.gateway.guards.guards import Guards
    from runstream.gateway.guards.input import InputGuard
    from runstream.gateway.guards.moderation import Moderation
    from runstream.gateway.guards.rules import Rules

    given = settings.moderation
    moderation = Moderation(moderations(given), timeout=given.timeout) if given is not None else None
    rules = Rules(settings.guards.rules, settings.guards.patterns)
    of_input = moderation if given is not None and given.input else None
    of_output = given is not None and given.output
    return Guards(InputGuard(rules, normalize=settings.guards.normalize, moderation=of_input), moderation, of_output)


def moderations(given: ModerationSettings) -> Moderations:
    """Raises ConfigurationError."""
    from runstream.providers.moderations import Moderations

    keys = tuple(key.get_secret_value() for key in given.api_keys)
    return Moderations(ProviderConfig("moderation", "openai", given.base_url, keys), given.model)


def issuers(settings: Settings) -> Sequence[Issuer]:
    """Opens nothing yet. Raises ConfigurationError."""
    names = [given.issuer for given in settings.jwt]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"RUNSTREAM_JWT has the issuer '{name}' twice.")
    return [_issuer(given) for given in settings.jwt]


def published_keys(given: JwtSettings) -> PublishedKeys | None:
    """None where the issuer shares a secret instead."""
    return PublishedKeys(given.jwks_url, given.algorithms or PUBLISHED) if given.jwks_url else None


def _issuer(given: JwtSettings) -> Issuer:
    try:
        keys = published_keys(given) or SharedSecret(given.secret.get_secret_value() if given.secret else "")
    except ConfigurationError as error:
        raise ConfigurationError(f"RUNSTREAM_JWT of '{given.issuer}': {error.message}") from None
    return Issuer(
        name=given.issuer,
        audience=given.audience,
        keys=keys,
        leeway=given.leeway,
        kind=given.kind,
        tenant=given.tenant,
        tenant_claim=given.tenant_claim or "",
        user_claim=given.user_claim,
        scopes=given.scopes,
        scopes_claim=given.scopes_claim,
        scope_map=given.scope_map,
    )


def timeouts(settings: Settings) -> Timeouts:
    return Timeouts(
        connect=settings.connect_timeout,
        first_token=settings.first_token_timeout,
        idle=settings.idle_timeout,
        total=settings.run_timeout,
    )
