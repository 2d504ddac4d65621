from datetime import UTC, datetime
from decimal import Decimal

import pytest

from runstream.domain.usage import Usage
from runstream.gateway.pricing import Prices, Rates
from runstream.gateway.routes import Target

AT = datetime(2026, 11, 1, tzinfo=UTC)
ADDRESSES = {
    "openai": "https://api.openai.com/v1",
    "claude": "https://api.anthropic.com/v1",
    "local": "http://gpu:8000/v1",
}


@pytest.mark.parametrize(
    ("provider", "model", "usage", "cost"),
    [
        ("openai", "gpt-4o-mini", Usage(1_000_000, 1_000_000), "0.75"),
        ("openai", "gpt-4o-mini", Usage(1_000_000, 0, 1_000_000), "0.075"),
        ("openai", "gpt-4o-mini", Usage(1000, 100, 200), "0.000195"),
        ("claude", "claude-haiku-4-5", Usage(1_000_000, 1_000_000), "6"),
    ],
)
def test_a_model_of_a_known_provider_costs_its_list_price(provider: str, model: str, usage: Usage, cost: str) -> None:
    price = Prices(ADDRESSES, {}).price(Target(provider, model), usage, AT)
    assert price is not None
    assert price.cost == Decimal(cost)
    assert price.version.startswith("genai-prices ")


@pytest.mark.parametrize(("provider", "model"), [("local", "gpt-4o-mini"), ("openai", "nobody-knows-this")])
def test_what_nobody_lists_has_no_price(provider: str, model: str) -> None:
    assert Prices(ADDRESSES, {}).price(Target(provider, model), Usage(1, 1), AT) is None


def test_what_is_configured_comes_before_the_list_and_the_exact_before_the_pattern() -> None:
    rates, exact = Rates(Decimal(2), Decimal(8), Decimal("0.5")), Rates(Decimal(1), Decimal(1))
    prices = Prices(ADDRESSES, {"openai/gpt-*": rates, "openai/gpt-4o-mini": exact})
    assert prices.price(Target("openai", "gpt-4o"), Usage(1000, 10, 600), AT) == (Decimal("0.00118"), "configured")
    assert prices.price(Target("openai", "gpt-4o-mini"), Usage(1000, 10, 600), AT) == (Decimal("0.00101"), "configured")


def test_cached_tokens_cost_what_others_do_where_nothing_else_is_said() -> None:
    assert Rates(Decimal(2), Decimal(8)).cost(Usage(1000, 0, 600)) == Decimal("0.002")
