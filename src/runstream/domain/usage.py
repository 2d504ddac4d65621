"""Tokens that a provider counted."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """As the provider reported it; `cached_tokens` are part of `input_tokens`."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
