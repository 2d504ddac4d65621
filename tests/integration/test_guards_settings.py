"""Guards that cannot be are said at the start, and by the doctor, without what is secret of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runstream.configuration import checked
from runstream.connections import guards
from runstream.doctor.configuration import check_configuration
from runstream.doctor.moderation import check_moderation
from runstream.domain.errors import ConfigurationError
from runstream.providers.simulated import Simulator
from runstream.settings import ModerationSettings, Settings, survey

SECRET = "s3cret-9f27"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("GUARDS", {"rules": {"model_key": "explode"}}, "RUNSTREAM_GUARDS at rules.model_key"),
        ("GUARDS", {"max_messages": 0}, "RUNSTREAM_GUARDS at max_messages"),
        ("GUARDS", {"patterns": {"own": "a" * 1001}}, "RUNSTREAM_GUARDS at patterns.own"),
        ("GUARDS", {"rules": {"mistyped": "flag"}}, "there is no rule 'mistyped'"),
        ("GUARDS", {"patterns": {"own": "(a"}}, "'own' is not one that RE2 takes"),
        ("MODERATION", {"api_keys": [SECRET]}, "RUNSTREAM_MODERATION at base_url"),
        ("MODERATION", {"base_url": "judge", "api_keys": [SECRET]}, "base_url that begins with http"),
        ("MODERATION", {"base_url": "http://j", "api_keys": [SECRET], "timeout": 0}, "RUNSTREAM_MODERATION at timeout"),
    ],
)
async def test_what_cannot_be_is_said_at_the_start_and_by_the_doctor(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: dict[str, Any], says: str
) -> None:
    monkeypatch.setenv(f"RUNSTREAM_{variable}", json.dumps(value))
    with pytest.raises(ConfigurationError) as refused:
        checked()
    told = " ".join(finding.text for finding in await check_configuration(*survey()))
    for said in (refused.value.message, told):
        assert says in said
        assert SECRET not in said


async def test_the_doctor_has_a_word_judged() -> None:
    async with Simulator() as simulator:
        for key, model, mark in (("k", "any", "ok"), ("bad", "any", "problem"), ("k", "malformed", "problem")):
            (finding,) = await check_moderation(
                ModerationSettings(base_url=simulator.url, api_keys=[key], model=model, timeout=20)
            )
            assert finding.mark.name.lower() == mark
        assert list(simulator.judge.asked) == [["Hello"]] * 2


async def test_without_settings_there_is_no_moderation_and_every_rule_flags() -> None:
    made = guards(Settings(_env_file=None))
    assert made.moderation is None
    assert made.screen(moderation_required=True, found=print) is None
