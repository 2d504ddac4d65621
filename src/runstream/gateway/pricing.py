"""What a call costs, in US dollars: by the list price of its provider's model, or by what is configured."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import version
from typing import NamedTuple

from genai_prices import Usage as Metered
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo

from runstream.domain.usage import Usage
from runstream.gateway.patterns import Patterns
from runstream.gateway.routes import Target

_CONFIGURED = "configured"
_MILLION = Decimal(1_000_000)
_MAX_FOUND = 1000
"""Models whose list price is kept at hand: finding one takes half a millisecond."""


@dataclass(frozen=True, slots=True)
class Rates:
    """US dollars for a million tokens. `cached` is for the part of the input that the provider had in its cache."""

    input: Decimal
    output: Decimal
    cached: Decimal | None = None

    def cost(self, usage: Usage) -> Decimal:
        cached = self.input if self.cached is None else self.cached
        fresh = usage.input_tokens - usage.cached_tokens
        return (fresh * self.input + usage.cached_tokens * cached + usage.output_tokens * self.output) / _MILLION


class Price(NamedTuple):
    """`version` says by which prices: `configured`, or the release of genai-prices that listed them."""

    cost: Decimal
    version: str


class Prices:
    """List prices come with genai-prices, which knows providers by their address. Nothing is fetched."""

    def __init__(self, addresses: Mapping[str, str], configured: Mapping[str, Rates]) -> None:
        """`addresses` are the providers' base URLs by name; `configured` goes by `provider/model`, or a pattern."""
        self._addresses = addresses
        self._configured = Patterns(configured)
        self._listed = f"genai-prices {version('genai-prices')}"
        self._find = lru_cache(_MAX_FOUND)(_listed)

    def price(self, target: Target, usage: Usage, at: datetime) -> Price | None:
        """None where nobody has said what this model costs there."""
        rates = self._configured.find(f"{target.provider}/{target.model}")
        if rates is not None:
            return Price(rates.cost(usage), _CONFIGURED)
        model = self._find(self._addresses[target.provider], target.model)
        if model is None:
            return None
        metered = Metered(
            input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, cache_read_tokens=usage.cached_tokens
        )
        return Price(model.get_prices(at).calc_price(metered)["total_price"], self._listed)


def _listed(address: str, model: str) -> ModelInfo | None:
    try:
        return get_snapshot().find_provider_model(model, None, None, address)[1]
    except LookupError:
        return None
