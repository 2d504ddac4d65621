"""Which provider dev uses when nobody has set one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from runstream.settings import Settings

OPENAI_URL = "https://api.openai.com/v1"
SIMULATED, SIMULATED_KEY = "simulated", "sk-simulated"


@dataclass(frozen=True)
class ModelChoice:
    settings: Mapping[str, str]
    notice: str
    """What to tell the person about it."""
    simulator_port: int | None = None
    """Where a simulated provider must be started, if one is needed."""


def is_configured(settings: Settings) -> bool:
    """Whether somebody has set a provider that may be there: the simulated one of an earlier start is not any more."""
    keys = [key.get_secret_value() for provider in settings.providers.values() for key in provider.api_keys]
    return bool(settings.providers) and (list(settings.providers), keys) != ([SIMULATED], [SIMULATED_KEY])


def choose_models(*, configured: bool, openai_key: str | None, free_port: int) -> ModelChoice:
    """Return what is configured, else OpenAI if its usual key is there, else a simulated provider."""
    if configured:
        return ModelChoice({}, "as RUNSTREAM_PROVIDERS says")
    if openai_key:
        openai = _settings("openai", OPENAI_URL, openai_key, fast="gpt-4o-mini")
        return ModelChoice(openai, "OpenAI, with the key in OPENAI_API_KEY: generations cost money")
    simulated = _settings(SIMULATED, f"http://127.0.0.1:{free_port}/v1", SIMULATED_KEY, fast="demo")
    notice = "simulated, its answers are made up: set OPENAI_API_KEY or RUNSTREAM_PROVIDERS for a real one"
    return ModelChoice(simulated, notice, free_port)


def _settings(name: str, base_url: str, key: str, *, fast: str) -> dict[str, str]:
    providers = {name: {"kind": "openai", "base_url": base_url, "api_keys": [key]}}
    return {
        "RUNSTREAM_PROVIDERS": json.dumps(providers),
        "RUNSTREAM_MODELS": json.dumps({"fast": [f"{name}/{fast}"], "*": [f"{name}/*"]}),
        "RUNSTREAM_DEFAULT_MODEL": "fast",
    }
