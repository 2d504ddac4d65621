"""Is the configuration one that a run can be made with?"""

from collections.abc import Iterable, Iterator, Sequence

from runstream.connections import guards, key_rates, model_routes, provider_configs
from runstream.doctor.finding import Finding, Mark
from runstream.domain.errors import RunstreamError
from runstream.providers.registry import build
from runstream.settings import Settings

_PART = "configuration"


async def check_configuration(settings: Settings, refused: Sequence[str]) -> Sequence[Finding]:
    """`refused` says which variables could not be read."""
    problems = [*refused, *(_contradictions(settings) if not refused else ())]
    if problems:
        return [Finding(Mark.PROBLEM, _PART, problem) for problem in problems]
    findings = [Finding(Mark.OK, _PART, f"Providers: {_list(settings.providers)}. Models: {_list(settings.models)}.")]
    if settings.default_model is None:
        findings.append(
            Finding(Mark.ADVICE, _PART, "Without RUNSTREAM_DEFAULT_MODEL every request has to name a model.")
        )
    return findings


def _contradictions(settings: Settings) -> Iterator[str]:
    if not settings.models and not settings.tenant_models:
        yield "No model is configured: set RUNSTREAM_PROVIDERS and RUNSTREAM_MODELS."
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
    try:
        guards(settings)
    except RunstreamError as error:
        yield error.message
    if settings.lease <= settings.lease_interval:
        yield "RUNSTREAM_LEASE has to be longer than RUNSTREAM_LEASE_INTERVAL, or workers lose their runs."
    if key_rates(settings) and settings.provider_wait >= settings.first_token_timeout:
        yield "RUNSTREAM_PROVIDER_WAIT has to be shorter than RUNSTREAM_FIRST_TOKEN_TIMEOUT, which a second wait is in."


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
