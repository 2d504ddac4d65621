"""Does each provider answer, does it accept each key, and does it know the models?"""

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace

from runstream.connections import provider_configs
from runstream.doctor.finding import Finding, Mark
from runstream.domain.errors import ProviderError, ProviderRefused
from runstream.providers.base import ProviderConfig
from runstream.providers.registry import build
from runstream.settings import Settings


async def check_provider(settings: Settings, name: str) -> Sequence[Finding]:
    """Asks for its list of models, once with each key. Raises ConfigurationError."""
    part = f"provider {name}"
    config = provider_configs(settings)[name]
    keys = build(config).keys.all
    listed: list[str] = []
    findings: list[Finding] = []
    for number, key in enumerate(keys, start=1):
        which = f"key {number} of {len(keys)}" if len(keys) > 1 else "its key"
        try:
            listed = await _models(replace(config, api_keys=(key,) if key else (), api_keys_file=None))
        except ProviderRefused as error:
            text = f"It refuses {which} ({error.message.rstrip('.')}): check base_url and api_keys."
        except ProviderError as error:
            text = f"It does not answer ({error.message.rstrip('.')}): check base_url, and the way there."
        else:
            continue
        findings.append(Finding(Mark.PROBLEM, part, text))
    if findings:
        return findings
    ok = Finding(
        Mark.OK,
        part,
        f"It answers, accepts {'every key' if len(keys) > 1 else 'its key'}, and has {len(listed)} models.",
    )
    return [ok, *(Finding(Mark.ADVICE, part, advice) for advice in _unknown(settings, name, listed))]


async def _models(config: ProviderConfig) -> list[str]:
    async with aclosing(build(config)) as provider:
        return await provider.models()


def _unknown(settings: Settings, name: str, listed: Sequence[str]) -> Iterator[str]:
    """Targets are only advised upon: not every server lists all that it takes."""
    named = {"RUNSTREAM_MODELS": settings.models}
    named |= {f"RUNSTREAM_TENANT_MODELS of '{tenant}'": own for tenant, own in settings.tenant_models.items()}
    for variable, models in named.items():
        for asked, targets in models.items():
            for each in targets:
                provider, _, model = each.target.partition("/")
                if provider == name and "*" not in model and model not in listed:
                    yield f"It does not list '{model}', which {variable} gives for '{asked}'."
