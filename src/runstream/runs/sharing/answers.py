"""Give a run the answer to the same request that is there, or is coming; and keep its own for others."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import structlog
from redis.exceptions import RedisError

from runstream.answers.board import Answered, Board
from runstream.domain.errors import Unavailable
from runstream.domain.prompt import Prompt
from runstream.domain.run import Caching, Claim, Generation
from runstream.gateway.cache import Keeping
from runstream.gateway.generate import Gateway
from runstream.metrics import ANSWERS_LOOKED_UP, FIRST_TOKEN
from runstream.providers.base import Piece
from runstream.runs.attempt import Attempt, Stop
from runstream.runs.intake import Intake
from runstream.runs.sharing.call import SharedCall
from runstream.runs.sharing.calls import SharedCalls
from runstream.runs.sharing.given import Given, piece_of
from runstream.storage.answers import Answer, AnswerStore

_PATIENCE = 3.0
"""Seconds that looking for an answer may take, or keeping one: about as long as getting another does."""
_PAUSE = (0.1, 5.0)
"""Seconds between tries while Postgres does not take it that an answer is shared: the first, and the longest."""

log = structlog.get_logger(__name__)


class Answers:
    """Redis knows which run to look at, and Postgres whether its answer is to be had: either may say no, or nothing."""

    def __init__(
        self, board: Board, store: AnswerStore, shared_calls: SharedCalls, gateway: Gateway, keeping: Keeping
    ) -> None:
        self._board = board
        self._store = store
        self._shared_calls = shared_calls
        self._gateway = gateway
        self._keeping = keeping

    async def give(self, attempt: Attempt, prompt: Prompt, intake: Intake) -> bool:
        """Give the run all of an answer that is kept, or of a call that it shares with others who ask for the same.

        False where it is to ask by itself: it wants that, or Redis or Postgres does not answer. Raises what the call
        failed with; SharedCallLost where it was another process's that is gone.
        """
        claim = attempt.claim
        if claim.cache is not Caching.READ or claim.resume is not None:
            return False
        found: SharedCall | Answer | None = None
        try:
            async with asyncio.timeout(_PATIENCE):
                found = await self._find(attempt, prompt)
        except (RedisError, OSError, TimeoutError, Unavailable) as error:
            log.warning("answer_not_looked_up", error=type(error).__name__)
        ANSWERS_LOOKED_UP.labels(_name(found, attempt)).inc()
        match found:
            case SharedCall():
                await self._share(attempt, found, intake)
            case Answer():
                await self._repeat(attempt, found, intake)
        return found is not None

    async def _find(self, attempt: Attempt, prompt: Prompt) -> SharedCall | Answer | None:
        """None where a run is said to have the answer, and has not."""
        claim = attempt.claim
        key = self._gateway.request_key(claim)
        without = None
        for _ in range(2):
            found = await self._shared_calls.join(attempt, key, prompt, disregard=without)
            if isinstance(found, SharedCall):
                return found
            answer = await self._store.get(claim.tenant, found, asked_by=claim.run_id, ttl=self._keeping.ttl)
            if answer is not None:
                return answer
            without = found
        return None

    async def _repeat(self, attempt: Attempt, answer: Answer, intake: Intake) -> None:
        await self._mark(attempt.claim)
        attempt.given = Given(self._gateway.call_saved(attempt.claim, answer.provider, answer.model, answer.usage))
        attempt.first_token()
        pieces = [piece for event in answer.transcript.since(0) for piece in piece_of(event)]
        await intake.take((), _each(pieces))
        attempt.finish_reason = attempt.finish_reason or answer.finish_reason

    async def _share(self, attempt: Attempt, call: SharedCall, intake: Intake) -> None:
        """Each run that shares a call has its own screen, and so its own findings and its own end."""
        own = call.leader is attempt
        try:
            if not own:
                attempt.given = Given()
                await self._mark(attempt.claim)
            async with aclosing(call.read()) as pieces, aclosing(_begun(attempt, pieces)) as pieces:
                await intake.take((), pieces)
        finally:
            self._shared_calls.leave(call, attempt)
            if own and attempt.stopped is Stop.HANDED_BACK:  # what is to become of its answer is known by then
                call.stop()
                await call.ended()
        if call.finish is not None and attempt.finish_reason is None:
            attempt.finish_reason = call.finish.reason
            if own:
                attempt.usage = call.finish.usage
            else:
                _, target, usage = call.finish
                attempt.given = Given(self._gateway.call_saved(attempt.claim, target.provider, target.model, usage))

    async def _mark(self, claim: Claim) -> None:
        """Have it written down before anything is shown: a lost attempt that asked by itself is charged what it showed.

        Waits while Postgres is away.
        """
        pause = _PAUSE[0]
        while True:
            try:
                await self._store.mark_shared(claim.tenant, claim.run_id, claim.attempt)
            except Unavailable as error:
                log.warning("shared_call_not_marked", error=error.message)
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
                pause = min(pause * 2, _PAUSE[1])
            else:
                return

    async def keep(self, attempt: Attempt, generation: Generation) -> None:
        """Keep a run's answer for others, if it is one to be kept; its row is written already."""
        claim = attempt.claim
        if claim.cache is Caching.OFF or generation.cached:
            return
        if not self._keeping.keeps(attempt.finish_reason, generation.usage, attempt.findings):
            return
        key, answered = self._gateway.request_key(claim), Answered(claim.run_id, int(self._keeping.ttl * 1000))
        if self._shared_calls.keep(attempt, key, answered):
            return
        try:
            await self._board.keep(key, answered)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("answer_not_kept", error=type(error).__name__)

    def stop(self) -> None:
        """This process goes away."""
        self._shared_calls.stop()


async def _begun(attempt: Attempt, pieces: AsyncIterator[Piece]) -> AsyncGenerator[Piece, None]:
    """The same pieces, the first of them noted."""
    began = time.monotonic()
    async for piece in pieces:
        if attempt.first_token_at is None:
            attempt.first_token()
            FIRST_TOKEN.observe(time.monotonic() - began)
        yield piece


async def _each(pieces: Sequence[Piece]) -> AsyncGenerator[Piece, None]:
    for piece in pieces:
        yield piece


def _name(found: SharedCall | Answer | None, attempt: Attempt) -> str:
    """As the metric has it."""
    match found:
        case SharedCall(leader=leader):
            return "miss" if leader is attempt else "shared"
        case Answer():
            return "hit"
    return "unreachable"
