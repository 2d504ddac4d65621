"""What the gateway asks of a provider, and what it gets back."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from runstream.domain.prompt import Prompt
from runstream.domain.usage import Usage
from runstream.providers.keys import KeyRing


@dataclass(frozen=True, slots=True)
class Call:
    """One generation. `model` is the provider's own name for it."""

    model: str
    prompt: Prompt
    resume: str | None = None
    """The `id` that a `Resumable` gave: that answer is read, from its beginning, and none is asked for.

    Whoever has kept a part of it passes over as many characters: an answer is the same each time it is read.
    """
    keep: Callable[[], bool] = field(default=lambda: False, repr=False, compare=False)
    """Asked when the context is left before the answer's end: whether an answer that can be resumed is to go on.

    It is stopped, and what it would still have cost saved, unless this says that somebody will take it up.
    """
    take_key: Callable[[], Awaitable[str]] | None = field(default=None, repr=False, compare=False)
    """Gives the key for each request that asks for an answer, and may wait for one; without it, they take turns."""


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


class Resumable(NamedTuple):
    """The provider goes on with this answer though nobody listens; `Call.resume` takes it up by `id`.

    Comes at most once, before any delta.
    """

    id: str


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


Piece = Opened | Resumable | TextDelta | ReasoningDelta | ToolCallDelta | Finished


class Provider(Protocol):
    """A connection pool to one provider account, shared by all calls of a process."""

    name: str
    keys: KeyRing

    def stream(self, call: Call, timeouts: Timeouts) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        """Make the call and yield its pieces: `Opened`, `Resumable` where it can be resumed, deltas, `Finished`.

        Leaving the context, for whatever reason, closes the upstream connection of an unfinished answer at once, and
        has one that can be resumed stopped unless `call.keep()`. Raises a `ProviderError`; one raised before the first
        piece means that nothing was generated, and `ProviderAnswerLost` that what was to be resumed is not there.
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
    background: bool = False
    """Answers are asked for so that the provider goes on with them by itself: they can be resumed."""
    api_keys_file: str | None = None
    """Where more keys are, one a line; see `KeyFile`."""
