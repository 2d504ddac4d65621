"""May this run be made? What it may take is reserved before its row is written."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from math import inf
from typing import Any, NamedTuple

import structlog

from runstream.counters.away import Away
from runstream.counters.book import Answer, Book, Outcome
from runstream.domain.errors import BudgetExceeded, LimitReached, RateLimited, Unavailable
from runstream.domain.ids import new_id
from runstream.domain.limits import (
    Account,
    Hold,
    Limit,
    Measure,
    Party,
    Scope,
    Take,
    Use,
    Window,
    in_dollars,
    in_parts,
)
from runstream.domain.run import Complexity
from runstream.domain.usage import Usage, dollars, estimate
from runstream.gateway.limits import Limits
from runstream.storage.budgets import BudgetStore

_PATIENCE = 20.0
"""Seconds that a request may wait for counters that are being read from Postgres."""
_PAUSE = 0.05
_EVERYWHERE = 3.0
"""Seconds after which a change of limits is in effect in every process that answers, with time to spare."""
_GUESS = 5.0
"""Seconds after which runs that are under way may have ended."""

log = structlog.get_logger(__name__)


class _Known(NamedTuple):
    """Counters that were read: while the limits have this stamp, which they have had `since`, and `until` then."""

    stamp: Hashable
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run that is to be made, or tried again: then `settled` is its last attempt."""

    run_id: str
    party: Party
    model: str
    input: Mapping[str, Any]
    settled: int = 0
    complexity: Complexity | None = None


class Admission:
    """Reserves in Redis, with one call; where Redis does not answer, by the row itself, with the tenant held still.

    Each process reads a tenant's counters anew before it first uses them, and whenever its limits may have become
    others: they may be of a time when spend was not counted, or nothing was. It does so again once the change is in
    effect in all processes, for until then others go by what held before.
    """

    def __init__(
        self,
        limits: Limits,
        book: Book,
        budgets: BudgetStore,
        *,
        price: Callable[[Wanted, Usage], Decimal | None],
        reserved_output: int,
    ) -> None:
        """`price` is of a run's use; `reserved_output` are tokens, where a request does not say how many."""
        self._limits = limits
        self._book = book
        self._budgets = budgets
        self._price = price
        self._reserved_output = reserved_output
        self._known: dict[str, _Known] = {}
        self._reading: dict[tuple[str, Hashable], asyncio.Task[bool]] = {}
        self._unreserved: Counter[str] = Counter()
        """Rows that are being written of tenants that nothing limited: the counters are not read before they are."""

    async def reserve(self, wanted: Wanted) -> Hold | None:
        """Hold what the run takes; None where nothing limits it.

        The hold is good for one row: written with it, or given back by `release`, or found `stale`. Raises
        LimitReached, Unavailable.
        """
        limits = self._limits.of(wanted.party.tenant)
        if not limits:
            return None
        take = self._take(wanted, limits)
        try:
            answer = await self._ask(take.party.tenant, limits, lambda: self._book.reserve(take, limits))
        except Away as error:
            log.warning("reserved_without_redis", run_id=wanted.run_id, error=str(error))
            return Hold(take, 0, datetime.now(UTC), check=lambda account: _check(take, limits, account))
        if answer.outcome is Outcome.REFUSED:
            raise _refusal(take, answer.uses, answer.at)
        return Hold(take, answer.epoch, answer.at, answer.left(take))

    @asynccontextmanager
    async def unreserved(self, hold: Hold | None, tenant: str) -> AsyncIterator[None]:
        """Write the row within that `hold` is for; or, where it is None, one that nothing limits."""
        if hold is not None:
            yield
            return
        self._unreserved[tenant] += 1
        try:
            yield
        finally:
            self._unreserved[tenant] -= 1
            if not self._unreserved[tenant]:
                del self._unreserved[tenant]

    async def release(self, hold: Hold | None) -> None:
        """Give back what was held for a row that was not made. Where Redis does not answer, the sweep does it."""
        if hold is None or hold.check is not None:
            return
        try:
            await self._book.release(hold.take, hold.epoch, hold.at)
        except Away as error:
            log.warning("reservation_not_released", run_id=hold.take.run_id, error=str(error))

    async def stale(self, hold: Hold | None) -> None:
        """The row was refused: it is a newer epoch. The counters are read anew if they have not been."""
        if hold is None or hold.check is not None:
            return
        try:
            await self._book.forget(hold.take.party.tenant, hold.epoch)
        except Away as error:
            log.warning("counters_not_forgotten", error=str(error))

    async def uses(self, tenant: str, user: str | None, features: Sequence[str]) -> tuple[datetime, list[Use]]:
        """How much of each limit that holds for the user is used, and at what time that was. Raises Unavailable.

        Of those of the tenant and its features alone, where no user is named.
        """
        limits = self._limits.of(tenant)
        uses: dict[tuple[Limit, str], Use] = {}
        at = datetime.now(UTC)
        for feature in features if limits else ():
            at, of_feature = await self._look(Party(tenant, user or "", feature), limits)
            uses |= {(use.limit, use.whose): use for use in of_feature}
        return at, [use for use in uses.values() if user is not None or use.limit.scope is not Scope.USER]

    async def _look(self, party: Party, limits: Sequence[Limit]) -> tuple[datetime, Sequence[Use]]:
        try:
            answer = await self._ask(party.tenant, limits, lambda: self._book.look(party, limits))
        except Away:
            account = await self._budgets.look(party.tenant, bounded=_bounded(limits))
            return account.at, [account.use(limit, party.of(limit.scope)) for limit in limits]
        return answer.at, answer.uses

    async def _ask(self, tenant: str, limits: Sequence[Limit], ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask the book, whose counters are read first where they are not there. Raises Away, Unavailable."""
        stamp = self._limits.stamp(tenant)
        until = time.monotonic() + _PATIENCE
        while (now := time.monotonic()) < until:
            known = self._known.get(tenant)
            if known is not None and known.stamp == stamp and now < known.until:
                answer = await ask()
                if answer.outcome is not Outcome.MISSING:
                    return answer
            if not self._unreserved[tenant] and await self._read(tenant, limits, stamp):
                changed = known.since if known is not None and known.stamp == stamp else now
                again = changed + _EVERYWHERE
                self._known[tenant] = _Known(stamp, changed, again if stamp and now < again else inf)
            else:
                await asyncio.sleep(_PAUSE)
        raise Unavailable("The tenant's limits cannot be read now: try again shortly.", retry_after=1)

    async def _read(self, tenant: str, limits: Sequence[Limit], stamp: Hashable) -> bool:
        """Have the counters read from Postgres, once for all who wait for it here; False where another process does."""
        key = tenant, stamp
        reading = self._reading.get(key)
        if reading is None:
            reading = self._reading[key] = asyncio.create_task(self._read_now(tenant, _bounded(limits)))
            reading.add_done_callback(lambda _: self._reading.pop(key))
        return await asyncio.shield(reading)

    async def _read_now(self, tenant: str, bounded: bool) -> bool:
        token = new_id("read")
        at = await self._book.begin(tenant, token)
        if at is None:
            return False
        epoch, account = await self._budgets.read(tenant, at, bounded=bounded)
        installed = await self._book.install(tenant, token, epoch, account, bounded=bounded)
        log.info("limits_read", tenant=tenant, epoch=epoch, open=len(account.open), installed=installed)
        return installed

    def _take(self, wanted: Wanted, limits: Sequence[Limit]) -> Take:
        if not _bounded(limits):
            return Take(wanted.run_id, wanted.party, None, None, wanted.settled)
        read = estimate(wanted.input, 0).input_tokens
        asked = wanted.input.get("max_output_tokens")
        usage = Usage(read, asked if isinstance(asked, int) else self._reserved_output)
        tokens = usage.input_tokens + usage.output_tokens
        priced = self._limits.of_cost or any(limit.measure is Measure.COST for limit in limits)
        cost = self._price(wanted, usage) if priced else None
        return Take(wanted.run_id, wanted.party, tokens, in_parts(cost), wanted.settled)


def _bounded(limits: Sequence[Limit]) -> bool:
    return any(limit.bounds_spend for limit in limits)


def _check(take: Take, limits: Sequence[Limit], account: Account) -> None:
    uses = [account.use(limit, take.party.of(limit.scope)) for limit in limits]
    if not all(use.fits(take.of(use.limit.measure)) for use in uses):
        raise _refusal(take, uses, account.at)


def _refusal(take: Take, uses: Sequence[Use], now: datetime) -> LimitReached:
    """Names the limit that takes the longest to have room."""
    full = [use for use in uses if not use.fits(take.of(use.limit.measure))]
    waits = {use: _wait(use, take, now) for use in full}
    use = max(full, key=waits.__getitem__)
    limit, more = use.limit, take.of(use.limit.measure)
    long = limit.window in {Window.DAY, Window.MONTH}
    kind = BudgetExceeded if long else RateLimited
    used = f"{_amount(limit, use.spent)} used"
    if limit.bounds_spend:
        used += f", {_amount(limit, use.reserved)} reserved"
    message = f"The limit {limit.name} of {_amount(limit, limit.most)} has no room for {_amount(limit, more)}: {used}."
    return kind(message, param=limit.name, retry_after=waits[use], uses=uses)


def _wait(use: Use, take: Take, now: datetime) -> float:
    """Until there may be room: when the window turns, or, where runs that are under way are in the way, by a guess."""
    turns = (use.resets_at - now).total_seconds() if use.resets_at else _GUESS
    others = use.spent + take.of(use.limit.measure) <= use.limit.most
    return min(turns, _GUESS) if use.limit.bounds_spend and others else turns


def _amount(limit: Limit, units: int) -> str:
    return f"${dollars(in_dollars(units))}" if limit.measure is Measure.COST else str(units)
