"""Make a model call at the first target that answers."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import structlog

from runstream.domain.errors import (
    InvalidField,
    ProviderError,
    ProviderProtocolError,
    ProviderTimeout,
    ProviderUnavailable,
)
from runstream.domain.prompt import Prompt
from runstream.domain.usage import ProviderCall, Usage
from runstream.gateway.circuits import Circuits
from runstream.gateway.pricing import Prices
from runstream.gateway.routes import Routes, Target
from runstream.providers.base import Call, Piece, Provider, ReasoningDelta, TextDelta, Timeouts, ToolCallDelta

_SAID = (TextDelta, ReasoningDelta, ToolCallDelta)
_FAILURES = (ProviderUnavailable, ProviderTimeout, ProviderProtocolError)
"""What says of a target that it may fail the next call as well; a refusal, or a limit, says nothing of the target."""

log = structlog.get_logger(__name__)


class Answer(NamedTuple):
    """What a model says: `head` up to its first token, and the `rest` as it comes.

    The rest comes straight from the provider: from the first token on there is no other target, and nothing to do
    for each token.
    """

    head: Sequence[Piece]
    rest: AsyncIterator[Piece]

    @property
    def begun(self) -> bool:
        """Whether the model said anything at all, of whichever kind."""
        return isinstance(self.head[-1], _SAID)


class Gateway:
    def __init__(
        self,
        routes: Routes,
        providers: Mapping[str, Provider],
        timeouts: Timeouts,
        prices: Prices,
        circuits: Circuits,
    ) -> None:
        self._routes = routes
        self._providers = providers
        self._timeouts = timeouts
        self._prices = prices
        self._circuits = circuits

    def calls(self, tried: Sequence[Target], usage: Usage | None) -> list[ProviderCall]:
        """What the ledger keeps of the targets that were tried in turn, the last of which made this use."""
        return [
            self._prices.called(target, usage if number == len(tried) else None)
            for number, target in enumerate(tried, 1)
        ]

    def call_unseen(self, model: str, usage: Usage) -> ProviderCall:
        """As `calls`, for a call of which only its result is known: it counts as the model's first target's."""
        try:
            return self._prices.called(self._routes.targets(model)[0], usage)
        except InvalidField:  # the model is not configured any more
            return ProviderCall("unknown", model, usage)

    @asynccontextmanager
    async def generate(self, model: str, prompt: Prompt, trying: Callable[[Target], None]) -> AsyncIterator[Answer]:
        """Yield the answer of the first target that begins to give one; `trying` is told of each before it is called.

        Targets that have been failing, and those whose keys all rest, are passed over; where that leaves none, all of
        them are tried. Raises the last one's ProviderError; leaving the context closes the call.
        """
        refused: ProviderError | None = None
        for target in self._candidates(self._routes.targets(model)):
            if refused is not None:
                log.warning("fallback", provider=target.provider, model=target.model, code=refused.code)
            trying(target)
            answered = False
            call = Call(target.model, prompt)
            try:
                async with self._providers[target.provider].stream(call, self._timeouts) as pieces:
                    head = await _head(pieces)
                    answered = True
                    self._circuits.answered(target)
                    yield Answer(head, pieces)
            except ProviderError as error:
                if isinstance(error, _FAILURES):
                    self._circuits.failed(target)
                if answered:
                    raise
                refused = error
            else:
                return
            finally:
                if not answered:
                    self._circuits.left(target)
        if refused is not None:
            raise refused

    def _candidates(self, targets: Sequence[Target]) -> Iterator[Target]:
        """Asks about each target when its turn comes: who is let through to a failing one is on trial there."""
        none = True
        for target in targets:
            if not self._providers[target.provider].rests() and self._circuits.admits(target):
                none = False
                yield target
        if none:
            yield from targets


async def _head(pieces: AsyncIterator[Piece]) -> Sequence[Piece]:
    """All that comes up to the first token; where there is none, all there is."""
    head: list[Piece] = []
    async for piece in pieces:
        head.append(piece)
        if isinstance(piece, _SAID):
            break
    return head
