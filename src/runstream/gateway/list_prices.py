"""List prices, by genai-prices. Loading this takes half a second and thirty megabytes."""

from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import version

from genai_prices import Usage as Metered
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo

from runstream.domain.usage import Usage

VERSION = f"genai-prices {version('genai-prices')}"


@lru_cache(1000)  # finding one takes half a millisecond
def _model(address: str, name: str) -> ModelInfo | None:
    try:
        return get_snapshot().find_provider_model(name, None, None, address)[1]
    except LookupError:
        return None


def list_price(address: str, model: str, usage: Usage, at: datetime) -> Decimal | None:
    """In US dollars; None where the provider at this address, or its model, is not known."""
    found = _model(address, model)
    if found is None:
        return None
    metered = Metered(
        input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, cache_read_tokens=usage.cached_tokens
    )
    try:
        total: Decimal = found.get_prices(at).calc_price(metered)["total_price"]
    except ValueError:  # it takes these counts for impossible
        return None
    return total
