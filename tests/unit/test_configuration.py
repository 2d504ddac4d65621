"""What an operator may set by mistake is refused in one sentence, the same at every start and by the doctor."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from runstream.cli import app
from runstream.configuration import checked
from runstream.doctor.configuration import check_configuration
from runstream.domain.errors import ConfigurationError
from runstream.settings import Settings, load, survey
from runstream.worker import serve_metrics

SECRET = "sk-s3cret-9f27"
HUGE = 10**30


def provider(**more: Any) -> dict[str, Any]:
    return {"sim": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_keys": [SECRET], **more}}


def target(**more: Any) -> dict[str, Any]:
    return {"fast": [{"target": "sim/x", **more}]}


def trusted(**more: Any) -> dict[str, Any]:
    given = {"issuer": "https://x/", "audience": "a", "jwks_url": "https://x/jwks", "tenant": "acme", **more}
    return {name: value for name, value in given.items() if value is not None}


@pytest.fixture(autouse=True)
def right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A configuration in which nothing is wrong yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNSTREAM_PROVIDERS", json.dumps(provider()))
    monkeypatch.setenv("RUNSTREAM_MODELS", json.dumps(target()))


def test_what_is_right_is_told_to_be() -> None:
    assert list(checked().models) == ["fast"]


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("LIMITS", '{"user": {"requests_per_minute": 5}, "user": {}}', "It names 'user' twice"),
        ("LIMITS", "[" * 100_000, "it is too deep"),
        ("LIMITS", [], "RUNSTREAM_LIMITS: It takes a JSON object"),
        ("LIMITS", {"user": {"tokens_per_day": HUGE}}, "less than or equal to 1000000000000000"),
        ("LIMITS", {"user": {"requests_per_minute": True}}, "valid integer"),
        ("LIMITS", {"tenants": {"": {}}}, "RUNSTREAM_LIMITS at tenants"),
        ("LIMITS", {"tenants": {"a\0b": {}}}, "RUNSTREAM_LIMITS at tenants.'a\\x00b'"),
        ("MODELS", {"": ["sim/x"]}, "RUNSTREAM_MODELS at "),
        ("MODELS", {"fast": ["sim/a\0b"]}, "characters that a name cannot have"),
        ("MODELS", {"fast": ["sim/\ud800"]}, "RUNSTREAM_MODELS at fast.0.target"),
        ("MODELS", {"fast": ["sim/" + "x" * 257]}, "more than 256 characters"),
        ("MODELS", target(price=[1e308, 1]), "price.0: Input should be less than or equal to 10000"),
        ("MODELS", target(concurrent_calls=HUGE), "concurrent_calls: Input should be less than"),
        ("PRICES", {"sim": {"input": 1, "output": 1}}, "'sim' is not 'provider/model'"),
        ("PRICES", {"nobody/x": {"input": 1, "output": 1}}, "'nobody/x' is not 'provider/model'"),
        ("DEFAULT_MODEL", "slow", "RUNSTREAM_DEFAULT_MODEL: No model of this name is configured."),
        ("PROVIDERS", provider(kind="smoke"), "RUNSTREAM_PROVIDERS: The provider 'sim' has kind 'smoke'"),
        ("PROVIDERS", provider(base_url="sim"), "RUNSTREAM_PROVIDERS: Give the provider 'sim' a base_url"),
        ("PROVIDERS", provider(api_key=SECRET), "There is no 'api_key' here, but: kind, base_url, api_keys,"),
        ("PROVIDERS", provider(api_keys=[""]), "api_keys.0: It is empty"),
        ("PROVIDERS", provider(api_keys=[f"{SECRET}\n"]), "api_keys.0: It is no key"),
        ("PROVIDERS", provider(api_keys=[f"{SECRET}ü"]), "api_keys.0: It is no key"),
        ("PROVIDERS", provider(api_keys_file=SECRET), "api_keys_file: It takes a file's path"),
        ("PROVIDERS", provider(api_keys_file=""), "api_keys_file: It takes a file's path"),
        ("PROVIDERS", provider(api_keys_file="/no/such"), "/no/such: No such file or directory"),
        ("PROVIDERS", provider(requests_per_minute=HUGE), "requests_per_minute: Input should be less than"),
        ("PROVIDERS", {"a/b": provider()["sim"]}, "RUNSTREAM_PROVIDERS at a/b"),
        ("JWT", {}, "RUNSTREAM_JWT at 0.issuer: Field required"),
        ("JWT", trusted(jwks_url=None), "RUNSTREAM_JWT at 0: It takes either a jwks_url or a secret"),
        ("JWT", trusted(secret=SECRET * 3), "RUNSTREAM_JWT at 0: It takes either a jwks_url or a secret"),
        ("JWT", trusted(jwks_url=None, secret=SECRET), "RUNSTREAM_JWT at 0.secret: It is too short: HS256 takes 32"),
        ("JWT", trusted(jwks_url=None, secret=SECRET * 3, algorithms=["RS256"]), "A secret is for HS256 alone"),
        (
            "JWT",
            trusted(jwks_url=None, secret=f"-----BEGIN PUBLIC KEY-----\n{SECRET}\n-----END PUBLIC KEY-----"),
            "jwks",
        ),
        ("JWT", trusted(algorithms=["HS256"]), "RUNSTREAM_JWT at 0.algorithms.0: Input should be 'RS256', 'PS256'"),
        ("JWT", trusted(algorithms=["none"]), "RUNSTREAM_JWT at 0.algorithms.0: Input should be 'RS256', 'PS256'"),
        ("JWT", trusted(algorithms=[]), "RUNSTREAM_JWT at 0.algorithms: List should have at least 1 item"),
        ("JWT", trusted(jwks_url="file:///etc/passwd"), "RUNSTREAM_JWT at 0.jwks_url: It takes a URL"),
        ("JWT", trusted(jwks_url=f"https://ada:{SECRET}@x/"), "RUNSTREAM_JWT at 0.jwks_url: It takes a URL"),
        ("JWT", trusted(jwks_url="https://x:99999/"), "RUNSTREAM_JWT at 0.jwks_url: It takes a URL"),
        ("JWT", trusted(jwks_url="https://"), "RUNSTREAM_JWT at 0.jwks_url: It takes a URL"),
        ("JWT", trusted(audience=[]), "RUNSTREAM_JWT at 0.audience: List should have at least 1 item"),
        ("JWT", trusted(tenant=None), "RUNSTREAM_JWT at 0: It takes either a tenant or a tenant_claim"),
        ("JWT", trusted(tenant_claim="org"), "RUNSTREAM_JWT at 0: It takes either a tenant or a tenant_claim"),
        ("JWT", trusted(kind="operator"), "RUNSTREAM_JWT at 0.kind: Input should be"),
        ("JWT", trusted(scopes=["admin"]), "RUNSTREAM_JWT at 0: A user's token cannot have the scope 'admin'"),
        (
            "JWT",
            trusted(scope_map={"a": "runs:read"}),
            "RUNSTREAM_JWT at 0: A scope_map is for the words of a scopes_c",
        ),
        ("JWT", trusted(scopes_claim="scope", scope_map={"a": "all"}), "RUNSTREAM_JWT at 0.scope_map.a.0: Input"),
        ("JWT", trusted(leeway=3600), "RUNSTREAM_JWT at 0.leeway: Input should be less than or equal to 300"),
        ("JWT", [trusted(), trusted()], "RUNSTREAM_JWT has the issuer 'https://x/' twice"),
        ("PROVIDER_WAIT", "inf", "RUNSTREAM_PROVIDER_WAIT: Input should be a finite number"),
        ("STREAM_TTL", "inf", "RUNSTREAM_STREAM_TTL: Input should be a finite number"),
        ("STREAM_TTL", "1e-9", "RUNSTREAM_STREAM_TTL: Input should be greater than or equal to 0.001"),
        ("READER_TIMEOUT", "1e9", "RUNSTREAM_READER_TIMEOUT: Input should be less than"),
        ("RETRY_DELAYS", "[NaN]", "RUNSTREAM_RETRY_DELAYS at 0: Input should be"),
        ("RETRY_DELAYS", [-1], "RUNSTREAM_RETRY_DELAYS at 0: Input should be"),
        ("MAX_ATTEMPTS", "99999999999", "RUNSTREAM_MAX_ATTEMPTS: Input should be less than"),
        ("LEASE", "0.5", "RUNSTREAM_LEASE has to be longer than RUNSTREAM_LEASE_INTERVAL"),
        ("GUARDS", {"patterns": {"private_key": "x"}}, "there is a rule 'private_key' already"),
        ("GUARDS", {"patterns": {"own": "("}}, "is not one that RE2 takes"),
        ("MODERATION", {"base_url": "judge"}, "RUNSTREAM_MODERATION: Give the provider 'moderation' a base_url"),
        ("MODERATION", {"base_url": "http://j", "input": False, "output": False}, "neither input nor output"),
        ("LIMIT", "{}", "RUNSTREAM_LIMIT is no setting, and has no effect: call it RUNSTREAM_LIMITS"),
    ],
)
async def test_what_cannot_be_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: Any, says: str
) -> None:
    monkeypatch.setenv(f"RUNSTREAM_{variable}", value if isinstance(value, str) else json.dumps(value))
    with pytest.raises(ConfigurationError) as refused:
        checked()
    told = [finding.text for finding in await check_configuration(*survey())]
    assert refused.value.message in told
    assert says in refused.value.message
    assert SECRET not in " ".join(told)
    assert "\0" not in " ".join(told)


def test_a_wait_for_keys_that_is_longer_than_the_wait_for_a_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNSTREAM_PROVIDERS", json.dumps(provider(requests_per_minute=5)))
    monkeypatch.setenv("RUNSTREAM_PROVIDER_WAIT", "60")
    with pytest.raises(ConfigurationError, match="RUNSTREAM_PROVIDER_WAIT has to be shorter"):
        checked()


def test_a_misnamed_variable_of_the_file_is_found_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RUNSTREAM_WARN_CALL_COSTS=1\n")
    with pytest.raises(ConfigurationError, match="call it RUNSTREAM_WARN_CALL_COST,"):
        load()


def test_what_others_call_like_settings_is_let_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes gives such variables to whoever runs beside a service of ours; and a client has its own."""
    for name in ("RUNSTREAM_PORT", "RUNSTREAM_SERVICE_HOST", "RUNSTREAM_REDIS_PORT", "RUNSTREAM_URL", "RUNSTREAM_KEY"):
        monkeypatch.setenv(name, "x")
    load()


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LIMITS", "MODERATION", "DEFAULT_MODEL", "WARN_CALL_COST", "PROVIDER_WAIT"):
        monkeypatch.setenv(f"RUNSTREAM_{name}", "")
    settings = checked()
    default = Settings.model_fields
    assert settings.limits == default["limits"].default
    assert (settings.moderation, settings.default_model, settings.provider_wait) == (None, None, 30)


async def test_a_port_for_metrics_that_is_taken_is_said_in_one_sentence() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"RUNSTREAM_WORKER_METRICS_PORT: {port} cannot be listened on"):
            serve_metrics(port)


@pytest.mark.parametrize("command", ["api", "simulate-provider"])
def test_a_port_that_is_none_is_refused_and_not_folded_into_one_that_is(command: str) -> None:
    refused = CliRunner().invoke(app, [command, "--port", "80000"])
    assert refused.exit_code == 2
    assert "--port" in refused.output
