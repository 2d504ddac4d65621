"""What is reserved and spent of each tenant's limits, counted in Redis so that one call can decide."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import orjson
from redis.asyncio import Redis

from runstream.counters.away import answering
from runstream.domain.limits import Account, Left, Limit, Measure, OpenRun, Party, Scope, Settlement, Take, Use
from runstream.redis_script import Script, Scripts

_REBUILD = 15.0
"""Seconds in which one process reads a tenant's counters from Postgres before another may."""
_FRESH = 24 * 3600
"""Seconds after which they are read again, whatever has gone wrong with them unnoticed."""
_TENANTS = "runstream:tenants-with-limits"


_MEASURES = tuple(Measure)


class Outcome(IntEnum):
    """What became of a reservation, as `reserve.lua` answers it."""

    RESERVED = 0
    REFUSED = 1
    MISSING = 2
    """The tenant's counters are not there: they are to be read from Postgres."""


class Answer(NamedTuple):
    """`counted` are of each limit in turn what is spent, what is reserved, and the second at which its window turns."""

    outcome: Outcome
    epoch: int
    at: datetime
    limits: tuple[Limit, ...]
    party: Party
    counted: Sequence[int]

    @property
    def uses(self) -> list[Use]:
        """As they are without what was asked for, if it was."""
        each = zip(self.limits, self.counted[::3], self.counted[1::3], self.counted[2::3], strict=False)
        return [
            Use(limit, self.party.of(limit.scope), spent, reserved, _moment(turns) if turns else None)
            for limit, spent, reserved, turns in each
        ]

    def left(self, take: Take) -> Left:
        """What is left with the reservation. Asked for with every run: so it makes no `Use` of each limit."""
        takes = [take.of(measure) for measure in _MEASURES]
        each = zip(_measured(self.limits), self.counted[::3], self.counted[1::3], strict=False)
        amounts = [most - spent - reserved - takes[measure] for (most, measure), spent, reserved in each]
        return Left(self.limits, amounts, tuple(self.counted[2::3]))


class Book:
    """Each call is one script, so it happens as a whole. All raise Away.

    The counters say what Postgres says, and Postgres wins: a reservation is good only for a row that is written at
    the epoch that it was made in, and reading the counters anew begins with a new one. So whatever Redis loses, no
    reservation of before can pass for one of afterwards.
    """

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._reserve, self._settle = (Script(scripts, _source(name)) for name in ("reserve", "settle"))
        self._timeout = scripts.timeout

    async def reserve(self, take: Take, limits: Sequence[Limit]) -> Answer:
        """Reserve what the run takes of all of its limits, or of none. Doing so again changes nothing."""
        return await self._ask(take, limits, take.run_id, bounded=take.tokens is not None)

    async def look(self, party: Party, limits: Sequence[Limit]) -> Answer:
        bounded = any(limit.bounds_spend for limit in limits)
        return await self._ask(Take("", party, None, None), limits, "", bounded=bounded)

    async def _ask(self, take: Take, limits: Sequence[Limit], run_id: str, *, bounded: bool) -> Answer:
        party = take.party
        arguments: list[str | int] = [run_id, party.user, party.feature, take.tokens or 0, take.cost or 0]
        limits = tuple(limits)
        arguments += [take.settled, int(bounded), _told(limits)]
        with answering():
            outcome, epoch, now, counted = await self._reserve([_key(party.tenant)], arguments)
        return Answer(Outcome(outcome), int(epoch), _moment(now), limits, party, list(map(int, counted.split())))

    async def release(self, take: Take, epoch: int, at: datetime) -> None:
        """Give back what was reserved for a run that was not made; nothing where the epoch is another one."""
        party = take.party
        await self._call("release", [_key(party.tenant)], take.run_id, party.user, party.feature, epoch, _second(at))

    async def settle(self, done: Settlement) -> None:
        """Count what an attempt came to, once, however often it is told."""
        counted = (done.since, done.through, done.tokens, done.cost, _second(done.at), int(done.ended))
        with answering():
            await self._settle([_key(done.tenant)], [done.run_id, *counted])

    async def begin(self, tenant: str, token: str) -> datetime | None:
        """Be the one who reads the tenant's counters from Postgres; answers Redis' time, None while another does."""
        now = await self._call("begin", [_key(tenant)], token, int(_REBUILD * 1000))
        return _moment(now) if now else None

    async def install(self, tenant: str, token: str, epoch: int, account: Account, *, bounded: bool) -> bool:
        """Put in place what was read since `begin`; False where that has taken too long, or Redis was emptied."""
        read = orjson.dumps(
            {
                "open": [
                    [run.run_id, run.user, run.feature, str(run.tokens), str(run.cost), str(run.settled)]
                    for run in account.open
                ],
                "spent": [
                    [window, _second(first), _field(scope, measure, whose), str(amount)]
                    for (window, first, scope, whose, measure), amount in account.spent.items()
                ],
            }
        )
        keys = [_key(tenant), _TENANTS]
        return bool(await self._call("install", keys, token, epoch, int(bounded), tenant, _FRESH, read))

    async def forget(self, tenant: str, epoch: int, ended: Mapping[str, int] | None = None) -> bool:
        """Have the counters read anew, if they are still of this epoch.

        `ended` are runs that have ended, with the last attempt that was counted: then only if one is still open.
        """
        pairs = [each for run_id, settled in (ended or {}).items() for each in (run_id, settled)]
        return bool(await self._call("forget", [_key(tenant)], epoch, *pairs))

    async def forget_user(self, tenant: str, user: str) -> None:
        """Take away what the user has spent, as Postgres is to have it too: under another name."""
        await self._call("forget_user", [_key(tenant)], user)

    async def tenants(self) -> AsyncIterator[str]:
        """Those whose spend is counted."""
        with answering():
            async for tenant in self._redis.sscan_iter(_TENANTS, count=100):
                yield tenant.decode()

    async def open_runs(self, tenant: str) -> tuple[int, list[tuple[OpenRun, datetime]]]:
        """The epoch, and all runs for which something is reserved, each with when that was.

        0 and none where the tenant's counters are not there: what is left of them then counts for nothing.
        """
        with answering():
            async with asyncio.timeout(self._timeout):
                epoch = await self._redis.hget(_key(tenant), "epoch")  # type: ignore[misc]
                if epoch is None:
                    return 0, []
                kept = await self._redis.hgetall(f"{_key(tenant)}:open")  # type: ignore[misc]
        return int(epoch), [_open_run(run_id.decode(), record) for run_id, record in kept.items()]

    async def first(self, what: str, seconds: float) -> bool:
        """Whether nobody else was told so, of the same thing, in so many seconds."""
        with answering():
            async with asyncio.timeout(self._timeout):
                return bool(await self._redis.set(f"runstream:looked:{what}", 1, nx=True, px=int(seconds * 1000)))

    async def _call(self, name: str, keys: Sequence[str], *arguments: str | int | bytes) -> Any:
        """Through the client's pool: for what is not asked with every run."""
        with answering():
            async with asyncio.timeout(self._timeout):
                return await self._redis.execute_command("EVAL", _source(name), len(keys), *keys, *arguments)


def _source(name: str) -> str:
    here = files(__package__)
    return here.joinpath("tenant.lua").read_text() + here.joinpath(f"{name}.lua").read_text()


def _key(tenant: str) -> str:
    return f"runstream:limits:{tenant}"


@lru_cache(maxsize=1024)
def _told(limits: tuple[Limit, ...]) -> str:
    """As `reserve.lua` takes them."""
    return orjson.dumps(
        [(limit.scope, limit.measure, limit.window or "", str(limit.most)) for limit in limits]
    ).decode()


@lru_cache(maxsize=1024)
def _measured(limits: tuple[Limit, ...]) -> list[tuple[int, int]]:
    """The most of each, and the place of its measure: quicker to look up by than the measure."""
    return [(limit.most, _MEASURES.index(limit.measure)) for limit in limits]


def _field(scope: Scope, measure: Measure, whose: str) -> str:
    return f"{scope}:{measure}:{whose}"


@lru_cache(maxsize=16)  # windows turn for all at once
def _moment(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)


def _second(at: datetime) -> int:
    return int(at.timestamp())


def _open_run(run_id: str, record: bytes) -> tuple[OpenRun, datetime]:
    user, feature, tokens, cost, settled, second = orjson.loads(record)
    return OpenRun(run_id, user, feature, int(tokens), int(cost), int(settled)), _moment(int(second))
