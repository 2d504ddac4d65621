"""Targets as an operator writes them down."""

import json
from decimal import Decimal
from typing import Any

import pytest

from runstream.connections import model_routes
from runstream.domain.errors import ConfigurationError, InvalidField
from runstream.domain.run import Complexity
from runstream.domain.usage import Rates
from runstream.gateway.routes import RouteQuery, TargetConfig
from runstream.settings import Settings, load

PROVIDERS = {"local": {"kind": "openai", "base_url": "http://gpu:8000/v1"}}


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Any:
    def configure(**variables: Any) -> Settings:
        for name, value in {"providers": PROVIDERS, **variables}.items():
            monkeypatch.setenv(f"RUNSTREAM_{name.upper()}", json.dumps(value))
        return load()

    return configure


def test_a_target_is_a_text_or_an_object_that_says_all_there_is_to_say(configured: Any) -> None:
    whole = {
        "target": "local/new",
        "price": [1, 2.5, 0.1],
        "min_input_tokens": 1,
        "max_input_tokens": 9,
        "complexity": ["low", "high"],
        "canary": 0.05,
        "concurrent_calls": 3,
    }
    other = {"target": "local/x", "price": {"input": 1, "output": 2}}
    routes = model_routes(configured(models={"fast": ["local/old", whole, other]}))
    old, new, priced = routes.configured("acme", "fast")
    assert old == TargetConfig("local/old")
    complexity = frozenset({Complexity.LOW, Complexity.HIGH})
    rates = Rates(Decimal(1), Decimal("2.5"), Decimal("0.1"))
    assert new == TargetConfig("local/new", rates, 1, 9, complexity, Decimal("0.05"), 3)
    assert priced.price == Rates(Decimal(1), Decimal(2))


def test_a_tenants_models_are_written_as_everybodys_are(configured: Any) -> None:
    settings = configured(tenant_models={"acme": {"fast": [{"target": "local/own", "max_input_tokens": 1}]}})
    with pytest.raises(InvalidField, match="takes 0 to 1"):
        model_routes(settings).targets(RouteQuery("run_1", "acme", "fast", {"text": "x" * 9}))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"target": "local/x", "canary": 1.5}, "canary: Input should be less than or equal to 1"),
        ({"target": "local/x", "canary": 0}, "canary: Input should be greater than 0"),
        ({"target": "local/x", "complexity": ["easy"]}, "complexity.0: Input should be 'low', 'medium' or 'high'"),
        ({"target": "local/x", "complexity": []}, "complexity: Frozenset should have at least 1 item"),
        ({"target": "local/x", "price": [1]}, "price.1: Field required"),
        ({"target": "local/x", "price": [1, -1]}, "price.1: Input should be greater than or equal to 0"),
        ({"target": "local/x", "max_input_tokens": -1}, "max_input_tokens: Input should be greater than or equal to 0"),
        ({"target": "local/x", "concurrent_calls": 0}, "concurrent_calls: Input should be greater than or equal to 1"),
        ({"target": "local/x", "weight": 2}, "There is no 'weight' here, but: target, price"),
        ({"canary": 0.1}, "target: Field required"),
        (7, "It takes a JSON object"),
    ],
)
def test_what_a_target_cannot_say_is_refused_by_its_place(configured: Any, target: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        configured(models={"fast": ["local/y", target]})
    assert refused.value.message.startswith("RUNSTREAM_MODELS at fast.1")
    assert said in refused.value.message
    with pytest.raises(ConfigurationError, match=r"RUNSTREAM_TENANT_MODELS at acme\.fast\.0"):
        configured(models={}, tenant_models={"acme": {"fast": [target]}})
