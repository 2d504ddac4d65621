"""Which provider `runstream dev` takes."""

from __future__ import annotations

import json

import pytest

from runstream.embedded.models import choose_models, is_configured
from runstream.settings import load


def test_what_is_configured_is_left_alone() -> None:
    choice = choose_models(configured=True, openai_key="sk-1", free_port=1234)
    assert choice.settings == {}
    assert choice.simulator_port is None


def test_openais_usual_key_is_enough_and_is_not_shown() -> None:
    choice = choose_models(configured=False, openai_key="sk-1", free_port=1234)
    providers = json.loads(choice.settings["RUNSTREAM_PROVIDERS"])
    assert providers == {"openai": {"kind": "openai", "base_url": "https://api.openai.com/v1", "api_keys": ["sk-1"]}}
    assert json.loads(choice.settings["RUNSTREAM_MODELS"]) == {"fast": ["openai/gpt-4o-mini"], "*": ["openai/*"]}
    assert choice.settings["RUNSTREAM_DEFAULT_MODEL"] == "fast"
    assert choice.simulator_port is None
    assert "sk-1" not in choice.notice


def test_with_nothing_set_a_simulated_provider_is_started_and_that_is_said() -> None:
    choice = choose_models(configured=False, openai_key=None, free_port=1234)
    providers = json.loads(choice.settings["RUNSTREAM_PROVIDERS"])
    assert providers["simulated"]["base_url"] == "http://127.0.0.1:1234/v1"
    assert choice.simulator_port == 1234
    assert "simulated" in choice.notice


def test_a_simulated_provider_of_an_earlier_start_is_none_that_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that has read its `env` still names the port that it had."""
    for name, value in choose_models(configured=False, openai_key=None, free_port=1234).settings.items():
        monkeypatch.setenv(name, value)
    assert not is_configured(load())
    monkeypatch.setenv("RUNSTREAM_PROVIDERS", '{"simulated": {"kind": "openai", "base_url": "http://127.0.0.1:1/v1"}}')
    assert is_configured(load())
