"""What the gateway asks of a provider, and what it gets back."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from runstream.domain.prompt import Prompt
from runstream.domain.usage import Usage


@dataclass(frozen=True, slots=True)
class Call:
    """One generation. `model` is the provider's own name for it."""

    model: str
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `idle` is the longest silence between two reads once the first has come."""

    connect: float = 10.0
    first_token: float = 60.0
    idle: float = 60.0
    total: float = 900.0


class Opened(NamedTuple):
    """The provider accepted the call. Comes once, first."""

    request_id: str | None


class TextDelta(NamedTuple):
    """Text that came in one read: tokens that came together are one delta."""

    text: str


class ReasoningDelta(NamedTuple):
    """What the model says to itself, where the provider shows it; as it came in one read."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call. The first of each `index` carries `id` and `name`; the arguments' pieces joined are JSON.

    Calls may take turns: `index` says whose piece it is.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str


class Finished(NamedTuple):
    """The provider said that it is done. Comes once, last; a stream without it broke off."""

    reason: str
    usage: Usage | None = None
    model: str | None = None


Piece = Opened | TextDelta | ReasoningDelta | ToolCallDelta | Finished


class Provider(Protocol):
    """A connection pool to one provider account, shared by all calls of a process."""

    name: str

    def stream(self, call: Call, timeouts: Timeouts) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        """Make the call and yield its pieces: `Opened`, deltas, `Finished`.

        Leaving the context, for whatever reason, closes the upstream connection of an unfinished answer at once.
        Raises a `ProviderError`; one raised before the first piece means that nothing was generated.
        """
        ...

    async def models(self) -> list[str]:
        """The model names that the provider lists: a call that costs nothing. Raises a `ProviderError`."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """One entry of RUNSTREAM_PROVIDERS. Keys never appear in its repr."""

    name: str
    kind: str
    base_url: str
    api_keys: tuple[str, ...] = field(default=(), repr=False)
