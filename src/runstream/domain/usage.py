"""Tokens that a generation took, and what they cost."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

SMALLEST = Decimal("1e-10")
"""What the ledger keeps of a US dollar: ten decimal places."""
_MILLION = Decimal(1_000_000)
_CHARACTERS_A_TOKEN = 4
"""OpenAI's rule of thumb for English text."""


@dataclass(frozen=True, slots=True)
class Usage:
    """As the provider reported it, or `estimated`; `cached_tokens` are part of `input_tokens`."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    estimated: bool = False


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


@dataclass(frozen=True, slots=True)
class ProviderCall:
    """One call to a provider, as the ledger keeps it.

    `usage` is None where it was refused, and nothing bought; `cost` is in US dollars, None where the model has no
    price; `price_version` says by which prices.
    """

    provider: str
    model: str
    usage: Usage | None = None
    cost: Decimal | None = None
    price_version: str | None = None
    cached: bool = False
    """It was not made: the answer was there already, or was being given to another run."""
    saved: Decimal | None = None
    """What it would have cost, in US dollars, where it was not made and its price is known."""


def total(costs: Iterable[Decimal | None]) -> Decimal | None:
    """What is known of them, added up; None where nothing is."""
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if known else None


def dollars(cost: Decimal | None) -> str | None:
    """As clients are told: a decimal number without an exponent, and no zeros at its end."""
    return None if cost is None else f"{cost.normalize():f}"


def estimate(input: Mapping[str, Any], characters: int) -> Usage:
    """What that much text, made from this input, came to where the provider did not say. Never fails."""
    return Usage(_tokens(_length(input)), _tokens(characters), estimated=True)


def _tokens(characters: int) -> int:
    return -(-characters // _CHARACTERS_A_TOKEN)


def _length(input: Mapping[str, Any]) -> int:
    """All text in it counts, roles and schemas too; an image that came as data does not."""
    length = 0
    left: list[Any] = [input]
    while left:  # not by patterns, which take five times as long: each run's input is gone through
        value = left.pop()
        if isinstance(value, str):
            length += 0 if value.startswith("data:") else len(value)
        elif isinstance(value, list):
            left += value
        elif isinstance(value, (dict, Mapping)):  # most are the former, which is quickly seen
            left += value.values()
    return length
