"""All calls of this process that runs may share: begun, kept up, passed on to other processes, ended, and paid for."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

import structlog
from redis.exceptions import RedisError

from runstream.answers.board import Answered, Board, Found, Step
from runstream.domain.errors import ProviderError, SharedCallLost, Unavailable, whereabouts
from runstream.domain.prompt import Prompt
from runstream.domain.usage import estimate
from runstream.gateway.generate import Gateway
from runstream.runs.attempt import Attempt, Stop
from runstream.runs.meter import calls_of
from runstream.runs.sharing.call import Finish, SharedCall, call_name
from runstream.runs.sharing.ways import follow, make
from runstream.storage.answers import AnswerStore
from runstream.stream.log import TokenLog
from runstream.stream.writer import WriteLoop

_INTERVAL = 0.25
"""Seconds from one sign of life to the next."""
_GRACE = 1.0
"""Seconds that a call may be nobody's before it is lost: Redis may have been emptied, and is told again."""
_PATIENCE = 1.0
"""Seconds to find out whether another process reads a call that nobody here does."""
_OUTLIVED = 1.0
"""Seconds from one look to the next at what a call comes to whose leader's run has ended."""
_ANNOUNCE = 5.0
"""Seconds to wait for the end to be in the log. Who reads it there finds out otherwise that the call is lost."""

log = structlog.get_logger(__name__)


class SharedCalls:
    """A call is paid for by the run that began it, whatever becomes of that run, and by no other.

    It goes on while any run reads it, wherever that is, and is stopped when none does.
    """

    def __init__(
        self,
        *,
        board: Board,
        store: AnswerStore,
        token_log: TokenLog,
        write_loop: WriteLoop,
        gateway: Gateway,
    ) -> None:
        self._board = board
        self._store = store
        self._log = token_log
        self._write_loop = write_loop
        self._gateway = gateway
        self._calls: dict[str, SharedCall] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._some = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def join(self, attempt: Attempt, key: str, prompt: Prompt, *, disregard: str | None) -> SharedCall | str:
        """The call that asks for this, made now if there is none; or the run that has the answer, if not `disregard`.

        A call is to be left by `leave`. Raises redis' errors, OSError, TimeoutError.
        """
        async with self._turns.setdefault(key, asyncio.Lock()):
            call = self._calls.get(key)
            if call is None:
                name = call_name(attempt.claim.run_id, attempt.claim.attempt)
                try:
                    found, name = await self._board.open(key, name, disregard=disregard)
                except BaseException:
                    self._spawn(self._release(key, name))  # it may have been noted
                    raise
                if found is Found.ANSWERED:
                    return name
                call = self._begin(SharedCall(key, name, attempt if found is Found.OWN else None), prompt)
            call.readers += 1
            call.shared = call.shared or call.leader is not attempt
            return call

    def keep(self, attempt: Attempt, key: str, answered: Answered) -> bool:
        """Keep who has the answer with the step that ends the call; False where the attempt leads none.

        Until then who asks for the same is given the call's own answer.
        """
        call = self._calls.get(key)
        if call is None or call.leader is not attempt:
            return False
        call.answered = answered
        return True

    def leave(self, call: SharedCall, attempt: Attempt) -> None:
        """It is not read for this attempt any more."""
        call.readers -= 1
        if call.over:
            return
        if call.leader is attempt:
            self._spawn(self._outlive(call, attempt))
        if call.readers == 0:
            self._spawn(self._abandon(call))

    def stop(self) -> None:
        """This process goes away: others make the calls that they read here."""
        for call in self._calls.values():
            call.stop()

    async def run(self) -> None:
        """Give signs of life until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(_INTERVAL)
            try:
                await self._keep_up(list(self._calls.values()))
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("shared_calls_not_kept_up", error=type(error).__name__)
            if not self._calls:
                self._some.clear()

    async def aclose(self, seconds: float) -> None:
        """Wait until nothing is left to be told or to be paid, at most so long."""
        self.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._tasks:
                    await asyncio.wait(self._tasks)

    def _begin(self, call: SharedCall, prompt: Prompt) -> SharedCall:
        self._calls[call.key] = call
        self._some.set()
        call.task = self._spawn(self._follow(call) if call.leader is None else self._lead(call, call.leader, prompt))
        return call

    # A call that is made here.

    async def _lead(self, call: SharedCall, leader: Attempt, prompt: Prompt) -> None:
        how: Finish | Exception = SharedCallLost()
        try:
            how = await make(call, leader, self._gateway, prompt)
        except asyncio.CancelledError:
            pass
        except Exception as error:
            if not isinstance(error, ProviderError):
                log.error("shared_call_broke", **whereabouts(error))  # noqa: TRY400 - without what it says
            how = error
        call.task = None  # there is nothing left to break off
        try:
            if not isinstance(how, Finish):
                await self._close(call)  # before anybody is told: who tries again is to make another
        finally:
            call.end(how)
        if isinstance(how, Finish):
            await leader.settled.wait()  # from then on it is found in the cache, if it is kept
            await self._close(call)
        if call.writer is not None:
            await call.writer.flush(_ANNOUNCE)
            self._write_loop.drop(call.writer)

    async def _abandon(self, call: SharedCall) -> None:
        """Stop a call that is read nowhere."""
        if call.readers:
            return
        if call.leader is None:
            self._forget(call)
            call.stop()
            with suppress(RedisError, OSError, TimeoutError):
                await self._board.leave(call.key, call.name)
            return
        nobody = True
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                nobody = await self._board.abandon(call.key, call.name)
        if nobody and call.readers == 0:
            self._forget(call)  # who comes while it closes is to make another
            call.stop()

    async def _close(self, call: SharedCall) -> None:
        """Nobody joins it any more; who did in another process, and was not noticed yet, is told nevertheless."""
        self._forget(call)
        if await self._release(call.key, call.name, call.answered):
            self._write(call)

    async def _release(self, key: str, name: str, answered: Answered | None = None) -> int:
        try:
            return await self._board.release(key, name, answered)
        except (RedisError, OSError, TimeoutError) as error:  # its lease runs out
            log.warning("shared_call_not_released", error=type(error).__name__)
            return 0

    def _write(self, call: SharedCall) -> None:
        if call.writer is None:
            call.shared = True
            call.write_to(self._write_loop.open(call.name, 1, lambda: None, call.transcript))

    async def _outlive(self, call: SharedCall, leader: Attempt) -> None:
        """Have the ledger say what a call comes to that goes on without the run that pays for it."""
        await leader.settled.wait()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_OUTLIVED):
                    await call.ended()
            over = call.over
            more = call.shared or (call.finish is not None and leader.stopped is not Stop.FENCED)
            owed = more and not leader.kept  # what is kept is paid for by who reads it on
            if (not owed or await self._pay(call, leader, last=over)) and over:
                return

    async def _pay(self, call: SharedCall, leader: Attempt, *, last: bool) -> bool:
        """Whether it is written."""
        claim, usage = leader.claim, call.finish and call.finish.usage
        if usage is None and leader.bought[-1:] == [True]:
            usage = estimate(claim.input, call.transcript.characters)
        calls = calls_of(leader, self._gateway, usage)
        try:
            for number, made in enumerate(calls, 1):
                last_word = last and number == len(calls)
                await self._store.amend(claim.tenant, claim.run_id, claim.attempt, number, made, last=last_word)
        except Unavailable as error:
            log.warning("shared_call_not_paid", run_id=claim.run_id, error=error.message)
            await asyncio.sleep(_OUTLIVED)
            return False
        return True

    # A call that another process makes.

    async def _follow(self, call: SharedCall) -> None:
        try:
            await follow(call, self._log, lambda: call.missing(_GRACE))
        except (KeyError, ValueError, TypeError) as error:  # what another version of Runstream may have written
            log.error("shared_call_not_understood", **whereabouts(error))  # noqa: TRY400 - without what it says
        finally:
            self._forget(call)
            call.end(SharedCallLost())  # if nothing else has

    # Both.

    async def _keep_up(self, calls: list[SharedCall]) -> None:
        if not calls:
            return
        steps = [(Step.LEAD if call.leader else Step.FOLLOW, call.key, call.name) for call in calls]
        for call, kept in zip(calls, await self._board.keep_up(steps), strict=True):
            if call.leader is None:
                call.seen(held=kept.holds)
            elif kept.others and self._calls.get(call.key) is call:
                self._write(call)
            elif call.readers == 0 and not call.over:
                self._spawn(self._abandon(call))

    def _forget(self, call: SharedCall) -> None:
        if self._calls.get(call.key) is call:
            del self._calls[call.key]

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
