"""What a call costs, in US dollars: by the list price of its provider's model, or by what is configured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from importlib.metadata import version

from genai_prices import Usage as Metered
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo

from runstream.domain.errors import ConfigurationError
from runstream.domain.usage import ProviderCall, Usage
from runstream.gateway.patterns import Patterns
from runstream.gateway.routes import Target

_CONFIGURED = "configured"
_MILLION = Decimal(1_000_000)
_SMALLEST = Decimal("1e-10")
"""What the ledger keeps of a dollar."""
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


class Prices:
    """List prices come with genai-prices, which knows providers by their address. Nothing is fetched."""

    def __init__(
        self,
        addresses: Mapping[str, str],
        configured: Mapping[str, Rates],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`addresses` are the providers' base URLs by name; `configured` goes by `provider/model`, or a pattern.

        Raises ConfigurationError.
        """
        for name in configured:
            if name.partition("/")[0] not in addresses:
                raise ConfigurationError(
                    f"RUNSTREAM_PRICES: {name!r} is not 'provider/model' with a provider of RUNSTREAM_PROVIDERS."
                )
        self._addresses = addresses
        self._configured = Patterns(configured)
        self._now = now
        self._listed = f"genai-prices {version('genai-prices')}"
        self._find = lru_cache(_MAX_FOUND)(_listed)

    def called(self, target: Target, usage: Usage | None) -> ProviderCall:
        """A call as the ledger keeps it: priced now, without a cost where nobody has said what this model costs there.

        Its `price_version` is `configured`, or the release of genai-prices that lists the model.
        """
        if usage is None:
            return ProviderCall(target.provider, target.model)
        cost, version = self._price(target, usage)
        cost = cost if cost is None else cost.quantize(_SMALLEST, ROUND_HALF_UP)
        return ProviderCall(target.provider, target.model, usage, cost, version)

    def _price(self, target: Target, usage: Usage) -> tuple[Decimal, str] | tuple[None, None]:
        rates = self._configured.find(f"{target.provider}/{target.model}")
        if rates is not None:
            return rates.cost(usage), _CONFIGURED
        model = self._find(self._addresses[target.provider], target.model)
        if model is None:
            return None, None
        metered = Metered(
            input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, cache_read_tokens=usage.cached_tokens
        )
        try:
            return model.get_prices(self._now()).calc_price(metered)["total_price"], self._listed
        except ValueError:  # it takes these counts for impossible
            return None, None


def _listed(address: str, model: str) -> ModelInfo | None:
    try:
        return get_snapshot().find_provider_model(model, None, None, address)[1]
    except LookupError:
        return None
