"""What a feature asks of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked of a model, whichever it is."""

    messages: Sequence[Mapping[str, Any]]
    temperature: float | None = None
    max_output_tokens: int | None = None
    stop: Sequence[str] | None = None
    response_format: Mapping[str, Any] | None = None
