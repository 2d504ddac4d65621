"""What may be asked for and spent: limits, what is reserved of them, and what is used."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

from runstream.domain.usage import SMALLEST


class Scope(StrEnum):
    """Whose use is added up."""

    USER = "user"
    TENANT = "tenant"
    FEATURE = "feature"


class Measure(StrEnum):
    """What is added up: runs asked for, runs that have not ended, tokens, or parts of a dollar."""

    REQUESTS = "requests"
    RUNS = "runs"
    TOKENS = "tokens"
    COST = "cost"


class Window(StrEnum):
    """A stretch of time, fixed in UTC: all that is used in it counts until it turns."""

    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"

    def start(self, at: datetime) -> datetime:
        at = at.astimezone(UTC).replace(second=0, microsecond=0)
        if self is Window.MINUTE:
            return at
        at = at.replace(hour=0, minute=0)
        return at if self is Window.DAY else at.replace(day=1)

    def end(self, at: datetime) -> datetime:
        longer = {Window.MINUTE: timedelta(minutes=1), Window.DAY: timedelta(days=1), Window.MONTH: timedelta(days=31)}
        return self.start(self.start(at) + longer[self])


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """`most` is in units of its measure; `window` is None where what counts is what goes on now.

    Each is equal to itself alone, and so is quickly looked up.
    """

    scope: Scope
    measure: Measure
    window: Window | None
    most: int
    name: str = field(init=False)
    """As the settings have it, such as `user.tokens_per_day`."""

    def __post_init__(self) -> None:
        setting = "concurrent_runs" if self.window is None else f"{self.measure}_per_{self.window}"
        object.__setattr__(self, "name", f"{self.scope}.{setting}")

    @property
    def bounds_spend(self) -> bool:
        """Whether it is of what runs take until they end, and so is to be reserved."""
        return self.measure is not Measure.REQUESTS


@dataclass(frozen=True, slots=True)
class Party:
    """Who asks, and for what of the tenant's."""

    tenant: str
    user: str
    feature: str

    def of(self, scope: Scope) -> str:
        if scope is Scope.TENANT:
            return ""
        return self.user if scope is Scope.USER else self.feature


class Use(NamedTuple):
    """How much of a limit is used. `resets_at` is when its window turns; `whose` names the user or the feature."""

    limit: Limit
    whose: str
    spent: int
    reserved: int
    resets_at: datetime | None

    @property
    def remaining(self) -> int:
        return max(0, self.limit.most - self.spent - self.reserved)

    def fits(self, more: int) -> bool:
        return self.spent + self.reserved + more <= self.limit.most


class Left(NamedTuple):
    """What is left of each limit, and the seconds, since 1970, at which their windows turn; 0 where they have none.

    An amount is less than nothing where more was taken than the limit allows.
    """

    limits: tuple[Limit, ...] = ()
    amounts: Sequence[int] = ()
    turns: tuple[int, ...] = ()

    @classmethod
    def of(cls, uses: Sequence[Use]) -> "Left":
        turns = (int(use.resets_at.timestamp()) if use.resets_at else 0 for use in uses)
        return cls(tuple(use.limit for use in uses), [use.remaining for use in uses], tuple(turns))


UNLIMITED = Left()


@dataclass(frozen=True, slots=True)
class Take:
    """What one run takes of limits. Tokens and cost are None where nothing bounds what is spent."""

    run_id: str
    party: Party
    tokens: int | None
    cost: int | None
    settled: int = 0
    """The run's last attempt whose calls are counted already."""

    def of(self, measure: Measure) -> int:
        if measure is Measure.TOKENS:
            return self.tokens or 0
        if measure is Measure.COST:
            return self.cost or 0
        return 1


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that has not ended, with what is reserved for it."""

    run_id: str
    user: str
    feature: str
    tokens: int
    cost: int
    settled: int


@dataclass(frozen=True, slots=True)
class Account:
    """What Postgres says of a tenant at one instant, `at`, of its own clock.

    `spent` goes by window, its start, scope, whose it is, and measure.
    """

    at: datetime
    open: Sequence[OpenRun]
    spent: Mapping[tuple[Window, datetime, Scope, str, Measure], int]

    def use(self, limit: Limit, whose: str) -> Use:
        spent, turns = 0, None
        if limit.window is not None:
            turns = limit.window.end(self.at)
            spent = self.spent.get((limit.window, limit.window.start(self.at), limit.scope, whose, limit.measure), 0)
        return Use(limit, whose, spent, self._reserved(limit, whose), turns)

    def _reserved(self, limit: Limit, whose: str) -> int:
        if not limit.bounds_spend:
            return 0
        own = [run for run in self.open if whose in {"", run.user if limit.scope is Scope.USER else run.feature}]
        if limit.measure is Measure.RUNS:
            return len(own)
        return sum(run.tokens if limit.measure is Measure.TOKENS else run.cost for run in own)


@dataclass(frozen=True, slots=True)
class Hold:
    """A reservation, good for a row that is written while the tenant's `epoch` is still this one.

    Where Redis could not be asked there is none: then `check` is to be asked, with the tenant held still, and raises
    what refuses the run.
    """

    take: Take
    epoch: int
    at: datetime
    left: Left = UNLIMITED
    check: Callable[[Account], None] | None = None

    def columns(self) -> dict[str, Any]:
        """What the run's row keeps of it."""
        cost = None if self.take.cost is None else str(in_dollars(self.take.cost))
        return {"reserved_tokens": self.take.tokens, "reserved_cost": cost}


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the end of an attempt came to, as the ledger has it, and whether the run ended with it.

    It covers the run's attempts after `since` and up to `through`; `at` is when the ledger says that it was spent.
    """

    tenant: str
    run_id: str
    since: int
    through: int
    tokens: int
    cost: int
    at: datetime
    ended: bool
    reserved: bool
    """Whether anything was reserved for the run, or may be limited by now: if not, nobody counts it."""
    costly: Sequence[Mapping[str, Any]] = ()
    """The entries of the ledger that are to be warned of."""


def in_parts(cost: Decimal | None) -> int:
    """A cost in US dollars as it is counted: in what the ledger keeps of one. One that is not known counts nothing."""
    return int((cost or Decimal(0)) / SMALLEST)


def in_dollars(parts: int) -> Decimal:
    return parts * SMALLEST
