"""The line at one provider's keys, for this process' calls: who waits here, and who asks Redis for all of them."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from runstream.counters.away import Away
from runstream.counters.key_turns import ALIVE, Coming, Grant, KeyTurns, Rate, Told
from runstream.domain.errors import ProviderBusy
from runstream.domain.ids import new_id
from runstream.metrics import CALL_WAIT, CALLS_WAITING
from runstream.providers.keys import KeyRing

_MOST = 64
"""Calls that come to the line with one question: few enough to keep it short."""
_SOONEST = 0.02
"""Seconds between two questions: what there is room for by then is given out together."""
_LATEST = ALIVE / 3
"""Seconds between two questions at the most: each is a sign of life."""
_WITHOUT = 5.0
"""Seconds for which calls go on without Redis once it did not answer, instead of waiting for it one after the other."""

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Waiter:
    id: str
    tenant: str
    tokens: int
    until: float
    turn: asyncio.Future[Grant | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def coming(self, now: float) -> Coming:
        return Coming(self.id, self.tenant, self.tokens, max(0.0, self.until - now))


class Line:
    """One task asks for all who wait: when somebody comes or goes, and when Redis said that there may be room."""

    def __init__(self, provider: str, rate: Rate, keys: KeyRing, turns: KeyTurns, *, worker: str) -> None:
        self.provider = provider
        self.rate = rate
        self.keys = keys
        self._turns = turns
        self._worker = worker
        self._waiting: dict[str, _Waiter] = {}
        self._coming: list[_Waiter] = []
        self._going: list[str] = []
        self._changed = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self._settling: set[asyncio.Task[None]] = set()
        self._away = False
        self._without_until = 0.0

    async def turn(self, tenant: str, tokens: int, patience: float) -> Grant | None:
        """Wait until a call of so many tokens may be made; None where Redis is away: it may be made then, uncounted.

        Raises ProviderBusy after `patience`, in seconds, or at once where the wait would be longer. A turn that is
        not used is to be settled as not made.
        """
        began = time.monotonic()
        if began < self._without_until:
            return None
        waiter = _Waiter(new_id("call"), tenant, tokens, began + patience)
        self._waiting[waiter.id] = waiter
        self._coming.append(waiter)
        self._ask_soon()
        CALLS_WAITING.labels(self.provider).inc()
        try:
            await asyncio.wait([waiter.turn])
        except asyncio.CancelledError:
            self._give_up(waiter)
            raise
        finally:
            CALLS_WAITING.labels(self.provider).dec()
            CALL_WAIT.labels(self.provider).observe(time.monotonic() - began)
        return waiter.turn.result()

    def settle(self, grant: Grant, *, made: bool, tokens: int) -> None:
        """Count what a call came to in the place of what was reserved for it. Nobody waits for that."""
        if not made or tokens != grant.tokens:
            settling = asyncio.create_task(self._settle(grant, made=made, tokens=tokens))
            self._settling.add(settling)
            settling.add_done_callback(self._settling.discard)

    async def aclose(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        await asyncio.gather(*self._settling)

    def _give_up(self, waiter: _Waiter) -> None:
        if not waiter.turn.done():
            self._go([waiter])
        elif waiter.turn.exception() is None and (grant := waiter.turn.result()) is not None:
            self.settle(grant, made=False, tokens=0)

    def _go(self, waiters: Iterable[_Waiter]) -> None:
        for waiter in waiters:
            del self._waiting[waiter.id]
            self._going.append(waiter.id)
        self._ask_soon()

    async def _settle(self, grant: Grant, *, made: bool, tokens: int) -> None:
        with suppress(Away):  # it counts as it was reserved, for a minute
            await self._turns.settle(self.provider, self.rate, grant, made=made, tokens=tokens)
            self._ask_soon()

    # Asking.

    def _ask_soon(self) -> None:
        self._changed.set()
        if self._asking is None and (self._waiting or self._going):
            self._asking = asyncio.create_task(self._ask_while_any_wait())

    async def _ask_while_any_wait(self) -> None:
        try:
            while self._waiting or self._going:
                self._changed.clear()
                wait = await self._ask()
                if not self._coming:
                    await self._sleep(wait)
                self._refuse_overdue()
        finally:
            self._asking = None

    async def _sleep(self, seconds: float) -> None:
        """Until it is time to ask again, somebody comes or goes, or somebody has waited for too long."""
        if not self._waiting:
            return
        soonest = min(waiter.until for waiter in self._waiting.values()) - time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(_SOONEST, min(seconds, soonest, _LATEST))):
                await self._changed.wait()

    def _refuse_overdue(self) -> None:
        now = time.monotonic()
        coming = {waiter.id for waiter in self._coming}
        overdue = [each for each in self._waiting.values() if each.until <= now and each.id not in coming]
        if overdue:
            self._go(overdue)
        for waiter in overdue:
            waiter.turn.set_exception(ProviderBusy())

    async def _ask(self) -> float:
        """Ask once; the seconds after which to ask again."""
        now = time.monotonic()
        coming, self._coming = self._coming[:_MOST], self._coming[_MOST:]
        coming = [waiter for waiter in coming if waiter.id in self._waiting]
        going, self._going = self._going, []
        try:
            told = await self._turns.take(
                self.provider,
                self.rate,
                self.keys.usable(),
                self._worker,
                [waiter.coming(now) for waiter in coming],
                going,
            )
        except Away as error:
            self._go_on_without(error)
            return 0
        if self._away:
            self._away = False
            log.info("calls_are_counted_again", provider=self.provider)
        self._take_in(told)
        return told.wait

    def _take_in(self, told: Told) -> None:
        for grant in told.granted:
            if waiter := self._waiting.pop(grant.id, None):
                waiter.turn.set_result(grant)
            else:  # gone while Redis was asked
                self.settle(grant, made=False, tokens=0)
        for id_, seconds in told.refused:
            if waiter := self._waiting.pop(id_, None):
                waiter.turn.set_exception(ProviderBusy(retry_after=seconds))
        coming = {waiter.id for waiter in self._coming}
        known = len(self._waiting) - len(coming)
        if told.waiting < known:  # Redis was emptied, or this process counted as dead
            self._coming += [waiter for waiter in self._waiting.values() if waiter.id not in coming]

    def _go_on_without(self, error: Away) -> None:
        self._without_until = time.monotonic() + _WITHOUT
        if not self._away:
            self._away = True
            log.warning("calls_go_on_uncounted", provider=self.provider, error=str(error))
        waiters, self._waiting, self._coming = list(self._waiting.values()), {}, []
        for waiter in waiters:
            waiter.turn.set_result(None)
