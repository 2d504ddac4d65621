"""Is the configuration one that runs can be made with? The same answer for every process, and for the doctor."""

from collections.abc import Iterator

from runstream.connections import guards, issuers, key_rates, master_keys, model_routes, moderations, provider_configs
from runstream.domain.errors import ConfigurationError, RunstreamError
from runstream.gateway.pricing import check_names
from runstream.providers.registry import build
from runstream.settings import GuardSettings, Settings, load


def checked() -> Settings:
    """Read the environment. Raises ConfigurationError, which says what to change, and never a secret."""
    settings = load()
    for problem in contradictions(settings):
        raise ConfigurationError(problem)
    return settings


def contradictions(settings: Settings) -> Iterator[str]:
    """A sentence on each thing that is readable by itself, and cannot be used as it stands."""
    for config in provider_configs(settings).values():
        try:
            build(config)
        except RunstreamError as error:
            yield f"RUNSTREAM_PROVIDERS: {error.message}"
    try:
        known = model_routes(settings)
        if settings.models and settings.default_model is not None:
            known.configured(None, settings.default_model)
    except RunstreamError as error:
        yield f"RUNSTREAM_DEFAULT_MODEL: {error.message}" if error.param else error.message
    yield from _guards(settings)
    try:
        master_keys(settings)
    except RunstreamError as error:
        yield error.message
    try:
        check_names(settings.prices, settings.providers)
    except RunstreamError as error:
        yield error.message
    try:
        issuers(settings)
    except RunstreamError as error:
        yield error.message
    if settings.lease <= settings.lease_interval:
        yield "RUNSTREAM_LEASE has to be longer than RUNSTREAM_LEASE_INTERVAL, or workers lose their runs."
    if key_rates(settings) and settings.provider_wait >= settings.first_token_timeout:
        yield (
            "RUNSTREAM_PROVIDER_WAIT has to be shorter than RUNSTREAM_FIRST_TOKEN_TIMEOUT: a call whose key is refused "
            "waits for another one within that time."
        )


def _guards(settings: Settings) -> Iterator[str]:
    """Their patterns are read only where somebody wrote some: what searches for them takes memory."""
    given = settings.moderation
    if given is not None:
        try:
            moderations(given)
        except RunstreamError as error:
            yield f"RUNSTREAM_MODERATION: {error.message}"
        if not (given.input or given.output):
            yield "RUNSTREAM_MODERATION judges neither input nor output: let it judge one, or take it away."
    if settings.guards != GuardSettings():
        try:
            guards(settings.model_copy(update={"moderation": None}))
        except RunstreamError as error:
            yield error.message
