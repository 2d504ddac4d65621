"""Make a model call at the first target that answers."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import NamedTuple, Protocol

import structlog

from runstream.domain.errors import (
    InvalidField,
    ProviderAnswerLost,
    ProviderError,
    ProviderProtocolError,
    ProviderTimeout,
    ProviderUnavailable,
)
from runstream.domain.prompt import Prompt
from runstream.domain.run import Claim, KeptAnswer, Run
from runstream.domain.usage import ProviderCall, Usage
from runstream.gateway.cache import request_key
from runstream.gateway.circuits import Circuits
from runstream.gateway.load import Load
from runstream.gateway.pricing import Prices
from runstream.gateway.routes import RouteQuery, Routes, Target
from runstream.gateway.turn import Lines, taken
from runstream.providers.base import (
    Call,
    Piece,
    Provider,
    ReasoningDelta,
    Resumable,
    TextDelta,
    Timeouts,
    ToolCallDelta,
)

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


class Asking(Protocol):
    """Who asks: told how it goes before there is an answer, and asked what is to become of one that is left."""

    @property
    def usage(self) -> Usage | None:
        """What the provider said that its answer took."""
        ...

    def trying(self, target: Target, resume: KeptAnswer | None) -> None:
        """This target is about to be called; or, with `resume`, that answer is about to be read there."""
        ...

    def resumable(self, target: Target, name: str) -> None:
        """What the target's answer can be read on by is known."""
        ...

    def keep(self) -> bool:
        """See `Call.keep`."""
        ...

    @property
    def kept(self) -> bool:
        """Whether the answer that was left is to be read on by somebody."""
        ...

    def failed(self, error: ProviderError) -> None:
        """The target that is being tried has failed before it said anything."""
        ...

    def not_resumed(self, error: ProviderError) -> None:
        """The answer that was to be resumed is not to be had: another one is asked for."""
        ...


class Gateway:
    def __init__(
        self,
        routes: Routes,
        providers: Mapping[str, Provider],
        timeouts: Timeouts,
        prices: Prices,
        circuits: Circuits,
        lines: Lines,
    ) -> None:
        self._routes = routes
        self._providers = providers
        self._timeouts = timeouts
        self._prices = prices
        self._circuits = circuits
        self._lines = lines
        self._load = Load()

    def calls(self, tried: Iterable[tuple[Target, Usage | None]]) -> list[ProviderCall]:
        """What the ledger keeps of the targets that were tried in turn, each with the use that it made."""
        return [self._prices.called(target, usage) for target, usage in tried]

    def call_saved(self, claim: Claim, provider: str, model: str, usage: Usage | None) -> ProviderCall:
        """What the ledger keeps of a call that was not made, as its answer was there: it would have come to `usage`."""
        target = self._routes.target(RouteQuery.of(claim), provider, model)
        would = self._prices.called(target, usage if provider in self._providers else None)
        return replace(would, usage=Usage(0, 0), cost=Decimal(0), cached=True, saved=would.cost)

    def request_key(self, claim: Claim) -> str:
        """See `cache.request_key`. Raises InvalidField."""
        return request_key(claim, self._routes.targets(RouteQuery.of(claim)))

    def call_unseen(self, run: Run, usage: Usage, answer: KeptAnswer | None = None) -> ProviderCall:
        """As `calls`, for a call of which only its result is known, and maybe what it could be read on by.

        Otherwise it counts as the run's first target's.
        """
        query = RouteQuery.of(run)
        if answer and answer.provider in self._providers:
            return self._prices.called(self._routes.target(query, answer.provider, answer.model), usage)
        try:
            return self._prices.called(self._routes.targets(query)[0], usage)
        except InvalidField:  # the model is not configured any more
            return ProviderCall("unknown", run.model, usage)

    async def stop(self, answer: KeptAnswer) -> None:
        """Have a provider stop an answer that nobody will read, as well as that can be done."""
        if provider := self._providers.get(answer.provider):
            with suppress(ProviderError):
                async with provider.stream(Call(answer.model, Prompt(()), answer.id), self._timeouts):
                    pass  # left at once, and not to be kept

    @asynccontextmanager
    async def generate(
        self, query: RouteQuery, prompt: Prompt, asking: Asking, resume: KeptAnswer | None = None
    ) -> AsyncIterator[Answer]:
        """Yield the answer to `resume`, from its beginning, or that of the first target that begins to give one.

        Targets are asked in the place of an answer that is not to be had, and is not kept for somebody else. Those that
        have been failing, that are full, or whose keys all rest, are passed over; where that leaves none, all of them
        are tried. Where a provider has a line at its keys, the call waits there, and goes on to the next target when it
        would wait for too long. Raises the last one's ProviderError; leaving the context closes the call.
        """
        refused: ProviderError | None = None
        time_in_line = self._lines.time_for(self._timeouts)
        for target, kept in self._candidates(query, resume):
            if refused is not None:
                log.warning("fallback", provider=target.provider, model=target.model, code=refused.code)
            asked = answered = False
            turn = self._lines.turn(None if kept else target.provider, query.tenant, prompt, time_in_line)
            try:
                await turn.wait()
                asking.trying(target, kept)
                asked = True
                call = Call(target.model, prompt, kept.id if kept else None, asking.keep, turn.take_key)
                with self._load.call(target) as under_way:
                    async with self._provider(target).stream(call, time_in_line.rest_of(self._timeouts)) as pieces:
                        answer = Answer(await _head(pieces, partial(asking.resumable, target)), pieces)
                        answered = True
                        self._circuits.answered(target)
                        if answer.begun and kept is None:
                            under_way.began_to_answer()
                        yield answer
            except ProviderError as error:
                if isinstance(error, _FAILURES):
                    self._circuits.failed(target)
                if asked and not answered:
                    asking.failed(error)
                    turn.settle(None if error.worked else 0)
                if answered or asking.kept:
                    raise
                if kept is not None:
                    asking.not_resumed(error)
                refused = error
            else:
                return
            finally:
                turn.settle(taken(asking.usage) if answered else None)
                if not answered and kept is None:  # whoever resumes was not let through on trial
                    self._circuits.left(target)
        if refused is not None:
            raise refused

    def _candidates(self, query: RouteQuery, resume: KeptAnswer | None) -> Iterator[tuple[Target, KeptAnswer | None]]:
        """Asks about each target when its turn comes: who is let through to a failing one is on trial there."""
        targets = self._routes.targets(query)
        if resume is not None:
            yield self._routes.target(query, resume.provider, resume.model), resume
        none = True
        for target in targets:
            passed_over = self._load.full(target) or self._providers[target.provider].keys.rests()
            if not passed_over and self._circuits.admits(target):
                none = False
                yield target, None
        if none:
            yield from ((target, None) for target in targets)

    def _provider(self, target: Target) -> Provider:
        """Raises ProviderAnswerLost where there is none: of all candidates only one to resume may be of another day."""
        if provider := self._providers.get(target.provider):
            return provider
        raise ProviderAnswerLost


async def _head(pieces: AsyncIterator[Piece], resumable: Callable[[str], None]) -> Sequence[Piece]:
    """All that comes up to the first token; where there is none, all there is."""
    head: list[Piece] = []
    async for piece in pieces:
        if isinstance(piece, Resumable):
            resumable(piece.id)
        head.append(piece)
        if isinstance(piece, _SAID):
            break
    return head
