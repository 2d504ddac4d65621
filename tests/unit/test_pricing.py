from datetime import UTC, datetime
from decimal import Decimal

import pytest

from runstream.domain.errors import ConfigurationError
from runstream.domain.usage import Rates, Usage
from runstream.gateway.pricing import Prices
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
    call = Prices(ADDRESSES, {}, now=lambda: AT).called(Target(provider, model), usage)
    assert (call.provider, call.model, call.usage, call.cost) == (provider, model, usage, Decimal(cost))
    assert call.price_version is not None
    assert call.price_version.startswith("genai-prices ")


@pytest.mark.parametrize(("provider", "model"), [("local", "gpt-4o-mini"), ("openai", "nobody-knows-this")])
def test_what_nobody_lists_has_no_price(provider: str, model: str) -> None:
    call = Prices(ADDRESSES, {}).called(Target(provider, model), Usage(1, 1))
    assert (call.usage, call.cost, call.price_version) == (Usage(1, 1), None, None)


def test_what_is_configured_comes_before_the_list_and_the_exact_before_the_pattern() -> None:
    rates, exact = Rates(Decimal(2), Decimal(8), Decimal("0.5")), Rates(Decimal(1), Decimal(1))
    prices = Prices(ADDRESSES, {"openai/gpt-*": rates, "openai/gpt-4o-mini": exact})
    for model, cost in (("gpt-4o", "0.00118"), ("gpt-4o-mini", "0.00101")):
        call = prices.called(Target("openai", model), Usage(1000, 10, 600))
        assert (call.cost, call.price_version) == (Decimal(cost), "configured")


def test_cached_tokens_cost_what_others_do_where_nothing_else_is_said() -> None:
    assert Rates(Decimal(2), Decimal(8)).cost(Usage(1000, 0, 600)) == Decimal("0.002")


def test_counts_that_the_list_of_prices_takes_for_impossible_have_no_price() -> None:
    """An attempt that could not be priced could not be ended."""
    call = Prices(ADDRESSES, {}).called(Target("openai", "gpt-4o-mini"), Usage(1, 1, 2))
    assert (call.usage, call.cost, call.price_version) == (Usage(1, 1, 2), None, None)


def test_a_refused_call_costs_nothing_and_has_no_price() -> None:
    call = Prices(ADDRESSES, {"openai/*": Rates(Decimal(1), Decimal(1))}).called(Target("openai", "gpt-4o"), None)
    assert (call.usage, call.cost, call.price_version) == (None, None, None)


def test_a_price_for_a_provider_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="RUNSTREAM_PRICES: 'opnai/gpt-4o'"):
        Prices(ADDRESSES, {"opnai/gpt-4o": Rates(Decimal(1), Decimal(1))})
