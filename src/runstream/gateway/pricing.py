"""What a call costs, in US dollars: by the list price of its provider's model, or by what is configured."""

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from urllib.parse import urlsplit

from runstream.domain.errors import ConfigurationError
from runstream.domain.patterns import Patterns
from runstream.domain.usage import SMALLEST, ProviderCall, Rates, Usage
from runstream.gateway.routes import Target

_CONFIGURED = "configured"
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})
"""Hosts that list no prices."""


_ListPrice = Callable[[str, str, Usage, datetime], Decimal | None]


class Prices:
    """List prices come with genai-prices, which knows providers by their address. Nothing is fetched.

    They are loaded where some provider is not on this machine.
    """

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
        check_names(configured, addresses)
        self._addresses = addresses
        self._configured = Patterns(configured)
        self._now = now
        self._list: tuple[_ListPrice, str] | None = None
        if any(urlsplit(address).hostname not in _HERE for address in addresses.values()):
            from runstream.gateway.list_prices import VERSION, list_price

            self._list = list_price, VERSION

    def called(self, target: Target, usage: Usage | None) -> ProviderCall:
        """A call as the ledger keeps it: priced now, without a cost where nobody has said what this model costs there.

        A price of the target's own goes first, then what is configured, then the list. Its `price_version` is
        `configured`, or the release of genai-prices that lists the model.
        """
        if usage is None:
            return ProviderCall(target.provider, target.model)
        cost, version = self._price(target, usage)
        cost = cost if cost is None else cost.quantize(SMALLEST, ROUND_HALF_UP)
        return ProviderCall(target.provider, target.model, usage, cost, version)

    def _price(self, target: Target, usage: Usage) -> tuple[Decimal, str] | tuple[None, None]:
        rates = target.price or self._configured.find(f"{target.provider}/{target.model}")
        if rates is not None:
            return rates.cost(usage), _CONFIGURED
        if self._list is None:
            return None, None
        list_price, version = self._list
        cost = list_price(self._addresses[target.provider], target.model, usage, self._now())
        return (None, None) if cost is None else (cost, version)


def check_names(configured: Collection[str], providers: Collection[str]) -> None:
    """Raises ConfigurationError."""
    for name in configured:
        provider, _, model = name.partition("/")
        if not model or provider not in providers:
            raise ConfigurationError(
                f"RUNSTREAM_PRICES: {name!r} is not 'provider/model' with a provider of RUNSTREAM_PROVIDERS."
            )
